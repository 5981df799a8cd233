"""What the tokens of a study say about its roles, found before any model runs."""

import logging
from typing import Any

from universal_ray.corpus.rows import TokenCorpus, excluded_ids
from universal_ray.errors import ConfigurationError
from universal_ray.stages.inputs import Inputs
from universal_ray.stages.profile.artifacts import profile
from universal_ray.stages.roles.artifacts import Begin, Roles
from universal_ray.stages.roles.plan import make_plan
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


def prepare(inputs: Inputs, store: Store) -> Roles:
    """What every task about the roles of a study is told. Raises as `make_plan` does."""
    plan, corpus, made = make_plan(inputs), inputs.corpus, profile(inputs, store)
    begin = _begin(inputs.tokenizer, corpus, plan.rows)
    for reason in sorted({*plan.untouched.values(), *([begin.missing] if begin.missing else [])}):
        log.warning("not measured: %s", reason)
    if begin.missing and any(each.paths for each in plan.named.values()):
        raise ConfigurationError(
            f"roles.paths names paths, and attention is not read: {begin.missing}; leave them out"
        )
    special = excluded_ids("special", inputs.tokenizer)
    return Roles(
        profile=made,
        plan=plan,
        options=inputs.study.roles,
        device=inputs.study.cluster.device.value,
        begin=begin,
        excluded=tuple(sorted({*special, *made.excluded})),
        contents=tuple(corpus.rows_hash(shard.start, shard.stop) for shard in plan.shards),
    )


def _begin(tokenizer: Any, corpus: TokenCorpus, rows: int) -> Begin:
    """Whether rows begin with the token that begins a text, as `tokenise` has it."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        return Begin(None, "the tokenizer has no token that begins a text")
    other = int((corpus.read(0, rows)[:, 0] != bos).sum())
    if other == 0:
        return Begin(bos, None)
    return Begin(bos, (
        f"{other:,} of the {rows:,} rows for interventions do not begin with the token that begins "
        f"a text (id {bos})"
    ))  # fmt: skip
