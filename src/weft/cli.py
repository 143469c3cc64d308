"""The command line: a fixed set of verbs over the functions of the same names.

Exit codes: 0 done, 2 wrong input, 1 a fault. Hyper-parameters arrive by --config and --set, never as flags.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import FlagCreatePairsOff, Positional, arg

from weft.errors import ConfigError, WeftError, near

Store = Annotated[Positional[str], arg(metavar="STORE")]
RunPath = Annotated[Positional[str], arg(metavar="RUN")]


def demo(*, out: str = "weft-demo", rows: int = 300_000, seed: int = 0, serve: bool = False) -> None:
    """The whole road on the simulated music service: tables, store, three models, a comparison, recommendations.

    Example: weft demo --out weft-demo

    Args:
        out: The folder that is made; an earlier demo there is replaced.
        rows: Impressions to simulate.
        seed: Of the simulation and of training.
        serve: Then serve a bundle over HTTP for a moment: a list, three plays, and the list that has changed by them.
    """
    from weft.study.demo import demo as run_demo

    run_demo(out, rows=rows, seed=seed, console=_console())
    if serve:
        try:
            from weft.learn.showing import show
        except ModuleNotFoundError as error:
            raise ConfigError(f"serving needs {error.name}; install weft[serve]") from error

        show(Path(out), _console())


def data_list(*, json: bool = False) -> None:
    """List the public data sets that weft can fetch or read.

    Example: weft data list

    Args:
        json: Print one JSON array.
    """
    from weft.data import catalog

    entries = [catalog.entry(name) for name in catalog.names()]
    if json:
        _print_json([{"name": e.name, "title": e.title, "protocols": list(e.protocols)} for e in entries])
        return
    _print_table(("name", "data", "protocols"), [(e.name, e.title, ", ".join(e.protocols)) for e in entries])


def data_get(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    *,
    out: str,
    protocol: str | None = None,
    from_: Annotated[str | None, arg(name="from")] = None,
    set: tuple[str, ...] = (),
) -> None:
    """Fetch a public data set, or read files that are here, and write tables and a schema.toml.

    Example: weft data get movielens-1m --protocol ctr --from ml-1m/ --out data/ml1m

    Args:
        name: A name of `weft data list`.
        out: The folder to write.
        protocol: One of the data set's protocols; its first one without this.
        from_: A folder with the publisher's files (`.xz` is read as it is); without it they are downloaded.
        set: Options of the data set as key=value, such as fold=1 or rows=300000.
    """
    from weft.data import catalog

    folder = catalog.get(name, out, protocol=protocol, source=from_, options=catalog.parse_options(set))
    _say(f"wrote {folder}; next: weft prepare {folder}/schema.toml --out STORE")


def prepare(schema: Annotated[Positional[str], arg(metavar="SCHEMA.toml")], /, *, out: str) -> None:
    """Turn the tables that a schema names into a store: fitted transforms and memory-mapped columns.

    Example: weft prepare data/ml1m/schema.toml --out stores/ml1m

    Args:
        schema: The schema file; the tables' paths in it are relative to it.
        out: The store to write.
    """
    from weft.data.store import prepare as run_prepare

    store = run_prepare(schema, out)
    rows = ", ".join(f"{len(store.split(name)):,} {name}" for name in ("train", "valid", "test"))
    _say(f"wrote {out}: {rows} rows; next: weft describe {out}")


def describe(store: Store, /, *, json: bool = False) -> None:
    """Rows, sparsity, cardinalities, label rate over time, features that leak the label, drift from train to test.

    Example: weft describe stores/ml1m

    Args:
        store: A store.
        json: Print one JSON object.
    """
    from weft.data.describe import describe as run_describe
    from weft.data.store import Store as OpenStore

    description = run_describe(OpenStore.open(store))
    if json:
        _print_json(description)
    else:
        description.render(_console())


def crosses(
    store: Store,
    /,
    *,
    top: int = 10,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Find pairs and triples of features whose AND a wide model would gain from, as lines for the schema file.

    Example: weft crosses stores/ml1m --top 5

    Args:
        store: A store.
        top: At most so many; none is printed that no train rows speak for.
        seed: Of the wide model, the trees, the rows that choose and the bootstrap.
        json: Print one JSON object.
    """
    from weft.study.crosses import find_crosses

    found = find_crosses(store, top=top, seed=seed, console=_console(stderr=True))
    sys.stdout.write(found.json() + "\n") if json else found.render(_console())


def models(name: Annotated[Positional[str | None], arg(metavar="[NAME]")] = None, /, *, json: bool = False) -> None:
    """List the models, or show one: what it is for, its options with defaults, and the presets.

    Example: weft models dcn_v2

    Args:
        name: A model; all of them without it.
        json: Print JSON.
    """
    from weft.study.models import render_model, render_models

    render_models(_console(), as_json=json) if name is None else render_model(name, _console(), as_json=json)


def train(
    store: Store,
    /,
    *,
    model: str,
    out: str,
    preset: str | None = None,
    config: str | None = None,
    set: tuple[str, ...] = (),
    init: str | None = None,
    seed: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: str = "auto",
    resume: bool = False,
    json: bool = False,
) -> None:
    """Train a model on a store and write a run folder.

    Example: weft train stores/ml1m --model dcn_v2 --preset bars --set dropout=0.2 train.batch_size=4096 --out runs/dcn

    Args:
        store: A store.
        model: A name of `weft models`.
        out: The run folder to write.
        preset: A named recipe (`bars`), overlaid by the data's own [presets.NAME].
        config: A TOML file of options; [train] holds those of the loop.
        set: Options as key=value; `train.KEY` addresses the loop.
        init: Start from another run's weights, rows matched by their external values.
        seed: Of initial weights, dropout, shuffling and sampling.
        precision: bf16 matrix products where the machine has them (auto), or always or never.
        device: cpu, cuda, or auto.
        resume: Go on from the last checkpoint in --out.
        json: Print the validation report as one JSON object.
    """
    from weft.train.run import train as run_train

    run = run_train(
        store,
        model,
        out=out,
        preset=preset,
        config=config,
        sets=set,
        init=init,
        seed=seed,
        precision=precision,
        device=device,
        resume=resume,
        console=_console(stderr=json),
    )
    metrics = run.validation
    if json:
        _print_json({"run": str(run.path), "model": model, "validation": metrics})
        return
    values = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())
    _say(f"{run.path}: validation {values or 'without rows'}; next: weft evaluate {run.path}")


def evaluate(
    run: RunPath,
    /,
    *,
    split: Literal["train", "valid", "test"] = "test",
    protocol: str | None = None,
    store: str | None = None,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Judge a run, or a bundle stage by stage; every number stands with its interval and its protocol.

    Example: weft evaluate runs/dcn --split test --json

    Args:
        run: A run folder, or a bundle.
        split: Which rows.
        protocol: pointwise, full or candidates; the schema's own without this. Of a bundle, full.
        store: The store, if it was moved since training.
        out: A folder to write: report.json and, of a bundle, the funnel as index.html, which needs no network.
        json: Print one JSON object.
    """
    from weft.evaluate.evaluator import evaluate as run_evaluate
    from weft.evaluate.page import write_report

    report = run_evaluate(run, split=split, protocol=protocol, store=store)
    if out is not None:
        write_report(report, out)
    sys.stdout.write(report.json() + "\n") if json else report.render(_console())
    if out is not None and not json:
        _say(f"wrote {out}")


def compare(
    store: Store,
    /,
    *,
    models: tuple[str, ...],
    out: str,
    seeds: int = 1,
    tune: int = 0,
    preset: str | None = None,
    set: tuple[str, ...] = (),
    metric: str | None = None,
    protocol: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train models with the same seeds, judge them on the same test rows, and tell which differences are real.

    Example: weft compare stores/ml1m --models dcn_v2 deepfm --seeds 3 --preset bars --out compared

    Args:
        store: A store.
        models: Names of `weft models`, or all; popularity, item_knn, lr and gbdt (with lightgbm) join where they
            fit the store.
        out: The folder to write: leaderboard.json, leaderboard.html and the runs; asked again, it goes on.
        seeds: Runs of each model.
        tune: Search each model's settings with so many trials on the validation rows first, by the metric that its
            training monitors (`train.monitor`); needs weft[tune].
        preset: A named recipe (`bars`), for the models that have it.
        set: Options as key=value, for the models that have them; `train.KEY` addresses the loop.
        metric: What to sort by; the task's or protocol's main one without this.
        protocol: pointwise, full or candidates; the schema's own without this.
        precision: bf16 matrix products where the machine has them (auto), or always or never.
        device: cpu, cuda, or auto.
        json: Print the leaderboard as one JSON object.
    """
    from weft.study.compare import PAGE
    from weft.study.compare import compare as run_compare

    board = run_compare(
        store,
        models,
        out=out,
        seeds=seeds,
        trials=tune,
        preset=preset,
        sets=set,
        metric=metric,
        protocol=protocol,
        precision=precision,
        device=device,
        console=_console(stderr=json),
    )
    if json:
        sys.stdout.write(board.json() + "\n")
        return
    board.render(_console())
    _say(f"wrote {out}; open {out}/{PAGE}")


def predict(
    run: RunPath, table: Annotated[Positional[str], arg(metavar="TABLE")], /, *, out: str, store: str | None = None
) -> None:
    """Score every row of a table; the scores are added as columns.

    Example: weft predict runs/dcn new_rows.parquet --out scored.parquet

    Args:
        run: A run folder.
        table: Parquet, CSV, TSV or Arrow with the schema's columns, labels not needed.
        out: The file to write, .parquet or .csv.
        store: The store, if it was moved since training.
    """
    from weft.evaluate.predict import predict as run_predict

    rows = run_predict(run, table, out, store=store)
    _say(f"wrote {rows:,} scored rows to {out}")


def bundle(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN")],
    /,
    *,
    out: str,
    pipeline: str | None = None,
    calibrate: Literal["isotonic", "platt"] | None = None,
    train_state: bool = True,
    store: str | None = None,
    json: bool = False,
) -> None:
    """Put trained runs of one store and the pipeline that they serve in into one folder.

    Example: weft bundle runs/two_tower runs/item_knn runs/dcn_v2 --pipeline playlist.toml --out bundles/playlist

    Args:
        runs: Run folders; in the pipeline a run goes by its folder's name, or by its model's where that says which.
        out: The bundle to write.
        pipeline: A TOML file; without it retrievers and sources propose, and rankers rank in the order given.
        calibrate: Make scores probabilities, fitted on the validation rows.
        train_state: Keep the optimizers' state, from which training can go on.
        store: The store, if it was moved since training.
        json: Print the manifest as one JSON object.
    """
    from weft.recommend.bundle import bundle as make_bundle

    made = make_bundle(runs, out, pipeline=pipeline, store=store, calibrate=calibrate, train_state=train_state)
    if json:
        _print_json(made.manifest)
        return
    _say(f"wrote {out}: {made.summary()}; next: weft recommend {out} --user ID")


def recommend(
    run: Annotated[Positional[str], arg(metavar="RUN|BUNDLE")],
    /,
    *,
    user: str | None = None,
    users: str | None = None,
    k: Annotated[int, arg(aliases=["-k"])] = 10,
    seen: Literal["hide", "allow", "window"] | None = None,
    context: tuple[str, ...] = (),
    trace: bool = False,
    store: str | None = None,
    json: bool = False,
) -> None:
    """The k best items of a run over the whole catalogue, or of a bundle's pipeline, for one user or many.

    Example: weft recommend bundles/playlist --user 42 -k 30 --context hour=8 device=phone --trace

    Args:
        run: A run or a bundle.
        user: An external user id; an unknown one gets the popular items, marked as such.
        users: A text file with one user id a line; one JSON object a line is printed as users are read.
        k: How many items.
        seen: What happens to items that the user has had; the pipeline's or the schema's own without this.
        context: Features of the request as name=value, with --user.
        trace: Tell what each stage did and how long it took, and why each item is there, with --user.
        store: The store of a run, if it was moved since training.
        json: Print JSON.
    """
    from weft.recommend.commands import parse_context, print_many
    from weft.recommend.recommender import Recommender, render

    if (user is None) == (users is None):
        raise ConfigError("give either --user ID or --users FILE")
    if user is None and (context or trace):
        raise ConfigError("`--context` and `--trace` are of one request; give them with --user")
    recommender = Recommender.load(run, store=store)
    if user is None:
        print_many(recommender, str(users), k=k, seen=seen, out=sys.stdout, console=_console(stderr=True))
        return
    values = parse_context(context, recommender.schema)
    answer = recommender.recommend(user, k=k, seen=seen, context=values or None, trace=trace)
    _print_json(answer) if json else render(answer, _console())


def explain(
    run: RunPath,
    /,
    *,
    out: str,
    user: str | None = None,
    item: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    rows: int = 10_000,
    seed: int = 0,
    store: str | None = None,
    json: bool = False,
) -> None:
    """What a model looks at: importance of features, pairs of fields, weights of crosses; as JSON and as a page.

    Example: weft explain runs/dcn --user 42 --item 260 --out why

    Args:
        run: A run folder.
        out: The folder to write: explanation.json and index.html, which needs no network.
        user: With --item, the pair that is explained too; an external id.
        item: An external id.
        split: Whose rows are sampled.
        rows: At most so many.
        seed: Of the sample, the shuffles and the intervals.
        store: The store, if it was moved since training.
        json: Print the numbers as one JSON object.
    """
    from weft.explain.explainer import explain as run_explain
    from weft.explain.text import render

    console = _console(stderr=True)
    found = run_explain(
        run, out=out, user=user, item=item, split=split, rows=rows, store=store, seed=seed, console=console
    )
    if json:
        _print_json(found)
        return
    render(found, _console())
    _say(f"wrote {out}; open {out}/index.html")


def dimensions(run: RunPath, /, *, out: str, keep: float = 0.95, json: bool = False) -> None:
    """The width that each table of a trained run needs (FDO), as a file for `weft train --config`.

    Example: weft dimensions runs/gdcn --keep 0.95 --out dims.toml

    Args:
        run: A run of a model with the option `widths`.
        out: The TOML file to write.
        keep: The share of each table's variance to keep.
        json: Print one JSON object.
    """
    from weft.train.dimensions import dimensions as find_dimensions

    found = find_dimensions(run, keep=keep)
    found.save(out)
    if json:
        _print_json(found)
        return
    found.render(_console())
    _say(f"wrote {out}; next: weft train STORE --model {found.model} --config {out} --out RUN")


def serve(
    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")],
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8_000,
    store: str | None = None,
    token_file: str | None = None,
    workers: int = 1,
    hosts: tuple[str, ...] = (),
    limits: str | None = None,
    level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Serve a bundle over HTTP, keep what users do, and let other bundles take over without a pause.

    Example: weft serve bundles/music --port 8000 --store events.db

    The page at /schema says what can be asked. The log goes to the error stream, one JSON object a line.

    Args:
        bundle: A bundle (or a run); others that may take over lie beside it.
        host: The address to listen on; one that other machines reach needs --token-file.
        port: 0 takes a free port, which the log tells.
        store: A path (SQLite) or postgresql://USER@HOST/DATABASE; `serve.db` beside the bundle without this.
        token_file: TOML with [[tokens]]: name, scopes (read, ingest, admin), and token or its sha256.
        workers: Processes.
        hosts: Further names under which the service is called.
        limits: A TOML file: body_bytes, waiting, patience, rate, burst, events_hourly and others.
        level: Of the log.
    """
    try:
        from weft.serve.server import serve as run_serve
        from weft.serve.settings import Limits, Settings, read_limits
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}; install weft[serve]") from error

    run_serve(
        Settings(
            bundle=bundle,
            store=store,
            host=host,
            port=port,
            token_file=token_file,
            workers=workers,
            hosts=hosts,
            limits=Limits() if limits is None else read_limits(limits),
            level=level,
        )
    )


def learn(
    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")],
    /,
    *,
    store: str | None = None,
    every: str | None = None,
    config: str | None = None,
    json: bool = False,
) -> None:
    """Train on with what a service logged, and put the new bundle into service if it passes the gate.

    Example: weft learn bundles/music --store events.db --every 15m

    New bundles lie beside BUNDLE. Every one that is published or refused stands in the store's audit with the reason.

    Args:
        bundle: The bundle that the service was started with; the one in service goes on.
        store: The service's store; `serve.db` beside the bundle without this.
        every: Go on for ever, a step in each span of time, such as 90s, 15m or 1h; one step without it.
        config: A TOML file: window, least, held, epochs, user_most, explored_only, [policy], [bounds] and others.
        json: Print one JSON object a step.
    """
    try:
        from weft.learn.loop import Learning, Outcome, learn_every, read_learning, seconds_of
        from weft.learn.loop import learn as run_learn
        from weft.serve.settings import Settings
        from weft.serve.store import EventStore
    except ModuleNotFoundError as error:
        raise ConfigError(f"learning needs {error.name}; install weft[serve]") from error

    settings = Learning() if config is None else read_learning(config)

    def hear(outcome: Outcome) -> None:
        _print_json(outcome) if json else _say(str(outcome))

    log = EventStore(Settings(bundle=bundle, store=store).store_url)
    try:
        if every is None:
            hear(run_learn(bundle, log, settings))
        else:
            learn_every(bundle, log, settings, seconds=seconds_of(every), hear=hear)
    finally:
        log.close()


def simulate(
    url: Annotated[Positional[str], arg(metavar="URL")],
    /,
    *,
    against: str | None = None,
    days: int = 7,
    requests: int = 300,
    turn: float = 1.0,
    added: int = 20,
    rows: int = 300_000,
    world: int = 0,
    seed: int = 0,
    token: str | None = None,
    json: bool = False,
) -> None:
    """Let the music world's users visit a running service, and count what they play.

    Example: weft simulate http://127.0.0.1:8000 --days 7 --requests 300

    The service must serve a bundle of `weft demo`, or of `weft data get music` with the same rows and seed. What the
    users do goes into its log, so `weft learn` can learn from it.

    Args:
        url: The service.
        against: A second service that the same users visit, such as a copy that does not learn.
        days: How many days pass.
        requests: Visits of a day.
        turn: Radians by which tastes turn in a week.
        added: Tracks that are put into the service over the days.
        rows: Of the world, as given to the demo.
        world: The seed of the world, as given to the demo.
        seed: Of visits and plays.
        token: A token of the service with the scopes read, ingest and admin, or @FILE that has it.
        json: Print one JSON object.
    """
    try:
        from weft.data.music import MusicConfig
        from weft.learn.simulate import Client, render
        from weft.learn.simulate import simulate as run_simulate
    except ModuleNotFoundError as error:
        raise ConfigError(f"simulating needs {error.name}; install weft[serve]") from error

    said = Path(token[1:]).read_text(encoding="utf-8").strip() if token and token.startswith("@") else token
    urls = [url] if against is None else [url, against]
    found = run_simulate(
        [Client(one, said) for one in urls],
        MusicConfig(rows=rows, seed=world),
        days=days,
        requests=requests,
        turn=turn,
        added=added,
        seed=seed,
        hear=lambda days: None if json else _say(" | ".join(f"day {d.day}: {d.rate.value:.3f}" for d in days)),
    )
    services = dict(zip(urls, found, strict=True))
    if json:
        _print_json(services)
    else:
        render(services, _console())


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "prepare": prepare,
    "describe": describe,
    "crosses": crosses,
    "models": models,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "bundle": bundle,
    "recommend": recommend,
    "explain": explain,
    "dimensions": dimensions,
    "serve": serve,
    "learn": learn,
    "simulate": simulate,
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {"list": data_list, "get": data_get}


def data() -> None:
    """Public data sets: `weft data list`, `weft data get NAME --out DIR`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    Threads that wait for each other spin only briefly: the default made training 2 to 3 times slower beside other work
    on the machine, and on a quiet one the two measured the same.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        _parse(arguments)()
    except WeftError as error:
        return _complain(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        return _complain(f"{error.strerror}: {error.filename!r}; give another path", 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except SystemExit as error:
        return int(error.code or 0)
    except Exception as error:
        if os.environ.get("WEFT_TRACEBACK"):
            raise
        return _complain(f"a fault of weft: {type(error).__name__}: {error} (WEFT_TRACEBACK=1 shows where)", 1)
    return 0


def _parse(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to be called; ConfigError says in a sentence what is wrong."""
    nested = arguments[:1] == ["data"]
    commands, given = (DATA_COMMANDS, arguments[1:]) if nested else ({**COMMANDS, "data": data}, arguments)
    if given and not given[0].startswith("-") and given[0] not in commands:
        raise ConfigError(f"there is no command {given[0]!r}; {near(given[0], commands)}")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                {name: _later(function) for name, function in commands.items()},
                prog="weft data" if nested else "weft",
                description="Public data sets." if nested else "Tables of interactions in, recommendations out.",
                args=_joined_sets(given),
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(_sentence(said.getvalue())) from end
    return command


def _later(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function of the same arguments that returns the call instead of making it."""

    @wraps(function)
    def parsed(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(function, *args, **kwargs)

    return parsed


def _joined_sets(arguments: list[str]) -> list[str]:
    """One `--set` with the values of all of them: the parser keeps the last one only.

    >>> _joined_sets(["--set", "a=1", "b=2", "--out", "run", "--set", "c=3"])
    ['--out', 'run', '--set', 'a=1', 'b=2', 'c=3']
    """
    rest: list[str] = []
    values: list[str] = []
    into = rest
    for argument in arguments:
        if argument.startswith("--"):
            into = values if argument == "--set" else rest
        if argument != "--set":
            into.append(argument)
    return [*rest, "--set", *values] if values else arguments


def _sentence(box: str) -> str:
    """The text of a box of the parser in one line, without its title.

    >>> _sentence("╭─ Problem ─╮ │ no --a │ │ For full helptext, run weft -h │ ╰───╯".replace(" │ ", chr(10)))
    'no --a; see weft -h'
    """
    words = re.sub(r"[─-╿]+|-{3,}", " ", " ".join(box.splitlines()[1:])).split()
    return re.sub(r"( Argument helptext: .*)?\.? For full helptext, (run:?|see) ", "; see ", " ".join(words))


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"weft: {' '.join(message.split())}\n")
    return code


def _console(*, stderr: bool = False) -> Console:
    """Prints text as it is: no markup, no colours in numbers."""
    return Console(stderr=stderr, markup=False, highlight=False)


def _say(text: str) -> None:
    _console().print(text, soft_wrap=True)


def _print_json(value: object) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


if __name__ == "__main__":
    main()
