"""Fill a machine's hub cache with all that a study needs; the options are those of jobs/run.py."""

from universal_ray.cli.entry import entry
from universal_ray.cli.study import StudyCommand


@entry("config", StudyCommand)
def main(job: StudyCommand) -> None:
    from universal_ray.config.study import check
    from universal_ray.models.source import check_files
    from universal_ray.stages.inputs import find_models, text_of
    from universal_ray.storage.store import Store

    check(job.study)
    store = Store(job.run.dir)
    # What the run itself finds first: configurations, headers, tokenizers.
    for source in find_models(job.study, store).sources:
        print(f"{source.name}: {check_files(source)}")
        if source.coders is not None:
            print(f"{source.name}: {source.coders.directory}")
    text = text_of(job.study, store)
    if text is not None and not text.begun:
        from universal_ray.corpus.documents import documents

        read = sum(1 for _ in documents(text.settings)[0])
        print(f"{text.settings.source}: {read:,} documents")


if __name__ == "__main__":
    main()
