"""What a run has done, does and how fast, from its files alone: `jobs/status.py run.dir=DIR`."""

from universal_ray.cli.options import entry
from universal_ray.config.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    from universal_ray.report.screen import console, show_plan
    from universal_ray.report.status import describe_run
    from universal_ray.storage.store import Store

    store = Store(study.run.dir)
    show_plan(console(), describe_run(store), store.url)


if __name__ == "__main__":
    main()
