"""Sparse autoencoders as four libraries write them, with the latents that these make of them.

    python tests/models/coders/record.py

writes anew what lies beside it, in an environment that has sae-lens 6.54.12, eai-sparsify 1.3.3,
dictionary_learning 0.1.0 and circuit-tracer 0.5.0 with what they need. This project's own is none,
as sae-lens needs an older transformer_lens: what they wrote stands here instead, and
test_sae_recorded.py reads it.
"""
# mypy: ignore-errors

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
C, D, T = 8, 24, 40


def shuffled(module):
    """Weights that tell all apart, where a library begins with zeros."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.4 if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn_like(parameter) * scale)
            if "threshold" in name:
                parameter.abs_()
    return module


def keep(name: str, x_TC: torch.Tensor, *latents_TD: torch.Tensor) -> None:
    """What was read and made, by layer."""
    made = {f"layer_{i}": each.detach().float() for i, each in enumerate(latents_TD)}
    save_file({"x": x_TC, **made}, HERE / name / "recorded.safetensors")


def lens(x_TC: torch.Tensor) -> None:
    import sae_lens
    from sae_lens.saes import transcoder
    from sae_lens.saes.sae import SAEMetadata

    def made(cls, config, **options):
        about = SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_pre")
        if "ranscoder" in cls.__name__:
            options |= {"d_out": C, "apply_b_dec_to_input": False}
        return shuffled(cls(config(d_in=C, d_sae=D, metadata=about, **options)))

    standard = sae_lens.StandardSAE, sae_lens.StandardSAEConfig
    topk = sae_lens.TopKSAE, sae_lens.TopKSAEConfig
    every = {
        **{f"standard_{each}": made(*standard, normalize_activations=each)
           for each in ("none", "layer_norm", "constant_norm_rescale")},
        "standard_uncentred": made(*standard, apply_b_dec_to_input=False),
        "jumprelu": made(sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig),
        "topk": made(*topk, k=5),
        "topk_rescaled": made(*topk, k=5, rescale_acts_by_decoder_norm=True),
        "gated": made(sae_lens.GatedSAE, sae_lens.GatedSAEConfig),
        "transcoder": made(transcoder.Transcoder, transcoder.TranscoderConfig),
        "skip_transcoder": made(transcoder.SkipTranscoder, transcoder.SkipTranscoderConfig),
        "jumprelu_transcoder": made(
            transcoder.JumpReLUTranscoder, transcoder.JumpReLUTranscoderConfig
        ),
    }  # fmt: skip
    batched = made(sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig, k=5)
    batched.topk_threshold = torch.tensor(1.7)
    for name, coder in {**every, "batchtopk": batched}.items():
        folder = HERE / f"saelens_{name}"
        folder.mkdir(exist_ok=True)
        save = coder.save_inference_model if name == "batchtopk" else coder.save_model
        save(folder)
        keep(folder.name, x_TC, sae_lens.SAE.load_from_disk(folder).encode(x_TC))


def sparsify(x_TC: torch.Tensor) -> None:
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    for name, options, hook in (
        ("topk", {"activation": "topk"}, "layers.3"),
        ("groupmax", {"activation": "groupmax"}, "h.3"),
        ("transcode", {"transcode": True}, "h.2.mlp"),
    ):
        coder = shuffled(SparseCoder(C, SparseCoderConfig(num_latents=D, k=4, **options)))
        coder.save_to_disk(HERE / f"sparsify_{name}" / hook)
        found = coder.encode(x_TC)
        dense_TD = torch.zeros(T, D).scatter_(1, found.top_indices, found.top_acts.detach())
        keep(f"sparsify_{name}", x_TC, dense_TD)


def learning(x_TC: torch.Tensor) -> None:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    for cls, more in (
        (dictionary.AutoEncoder, ()), (dictionary.GatedAutoEncoder, ()),
        (dictionary.AutoEncoderNew, ()), (dictionary.JumpReluAutoEncoder, ()),
        (AutoEncoderTopK, (5,)), (BatchTopKSAE, (5,)), (MatryoshkaBatchTopKSAE, (5, [12, 12])),
    ):  # fmt: skip
        coder = shuffled(cls(C, D, *more))
        if cls in (BatchTopKSAE, MatryoshkaBatchTopKSAE):
            coder.threshold.fill_(1.3)
        folder = HERE / f"dictionary_learning_{cls.__name__}"
        folder.mkdir(exist_ok=True)
        torch.save(coder.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": cls.__name__, "k": 5, "lm_name": "gpt2", "layer": 8,
            "submodule_name": "resid_post_layer_8", "activation_dim": C, "dict_size": D,
        }  # fmt: skip
        config = {"trainer": trainer, "buffer": {"io": "out"}}
        (folder / "config.json").write_text(json.dumps(config))
        keep(folder.name, x_TC, coder.encode(x_TC))


def tracer(x_TC: torch.Tensor) -> None:
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    for name in ("relu", "jumprelu"):
        folder = HERE / f"circuit_tracer_{name}"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(
            "model_name: gpt2\nmodel_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\n"
            "feature_output_hook: hook_mlp_out\nscan: x\n"
        )
        made = []
        for layer in range(2):
            state = {"W_enc": torch.randn(D, C) * 0.4, "W_dec": torch.randn(D, C),
                     "b_enc": torch.randn(D), "b_dec": torch.randn(C)}  # fmt: skip
            if name == "jumprelu":
                state["activation_function.threshold"] = torch.rand(D)
            save_file(state, path := folder / f"layer_{layer}.safetensors")
            coder = load_relu_transcoder(
                str(path), layer, device=torch.device("cpu"), lazy_encoder=False, lazy_decoder=False
            )
            made.append(coder.encode(x_TC))
        keep(folder.name, x_TC, *made)


if __name__ == "__main__":
    torch.manual_seed(0)
    read_TC = torch.randn(T, C) * 3
    for write in (lens, sparsify, learning, tracer):
        write(read_TC)
