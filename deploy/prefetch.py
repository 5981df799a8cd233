"""Fill a machine's hub cache with the models of a study; the options are those of jobs/run.py."""

from universal_ray.cli.options import entry
from universal_ray.cli.study import StudyCommand


@entry("config", StudyCommand)
def main(job: StudyCommand) -> None:
    from universal_ray.config.study import check, model_groups

    study = job.study
    check(study)
    from universal_ray.models.source import check_files, resolve

    for name in (name for group in model_groups(study.models) for name in group):
        print(f"{name}: {check_files(resolve(name))}")


if __name__ == "__main__":
    main()
