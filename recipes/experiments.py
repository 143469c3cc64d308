"""What docs/results.md is made of: every experiment on public data, by table.

Published figures are those of BARS (reczoo/BARS, boards and repeated runs) and of the papers named beside them.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One model with one setting on one protocol of one data set, some seeds or folds.

    Attributes:
        name: Of its records.
        table: The table of the page that it stands in.
        data: Name of the data set in the catalog.
        source: Its folder under WEFT_DATA.
        model: Registry name.
        seeds: One run each.
        setting: What sets it apart from its neighbours in the table.
        protocol: Of the data set; its first one without this.
        options: Of the data set.
        preset: Of training.
        sets: As `--set`; `{runs}` stands for the folder of all runs.
        widths_of: An experiment whose run of the same seed gives the widths, and the share of variance kept.
        metrics: Shown, the first one orders the table.
        fold_is_seed: The seeds are folds of the data.
        in_order: The table keeps the order of its experiments instead of the best first.
        published: Figures of others.
    """

    name: str
    table: str
    data: str
    source: str
    model: str
    seeds: tuple[int, ...]
    setting: str = ""
    protocol: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    preset: str | None = None
    sets: tuple[str, ...] = ()
    widths_of: tuple[str, float] | None = None
    metrics: tuple[str, ...] = ("auc", "logloss")
    fold_is_seed: bool = False
    in_order: bool = False
    published: str = ""


FRAPPE: dict[str, Any] = {"data": "frappe", "source": "frappe", "preset": "bars"}
ML1M: dict[str, Any] = {"data": "movielens-1m", "source": "ml-1m", "protocol": "ctr", "preset": "bars"}
ML100K: dict[str, Any] = {
    "data": "movielens-100k",
    "source": "ml-100k",
    "protocol": "rating",
    "table": "ratings",
    "seeds": (1, 2, 3, 4, 5),
    "metrics": ("rmse",),
    "fold_is_seed": True,
}

SHORT = ("embedding_dim=64", "train.batch_size=1024", "train.epochs=60")

THREE, FIVE = (0, 1, 2), (0, 1, 2, 3, 4)


class Member(NamedTuple):
    """A model of the family on Frappe and on MovieLens-1M; `key` is its name among the records.

    The settings on Frappe are those that won at BARS, where there are any; those of the others are their neighbours'.
    """

    key: str
    model: str
    setting: str = ""
    frappe: tuple[str, ...] = ()
    ml1m: tuple[str, ...] = ()
    frappe_seeds: tuple[int, ...] = THREE
    ml1m_seeds: tuple[int, ...] = (0,)
    frappe_published: str = ""
    ml1m_published: str = ""


# While the products of fm and gmf are small the AUC rests at that of lr for some epochs, where the recipe would stop.
STEADY = ("embedding_std=0.01", "train.plateau_factor=1.0", "train.patience=10")
# gmf multiplies three factors; more L2 pulls them all to zero, where no gradient is left.
SMALL_L2 = (
    "embedding_std=0.01",
    "train.l2=1e-5",
    "train.learning_rate=0.003",
    "train.plateau_factor=0.3",
    "train.patience=5",
)
ATTENTION = ("num_layers=3", "num_heads=2", "attention_dim=64")
# Without it, and with tables that start from 1e-4, its AUC on Frappe rests at .946 (.967 after 14 epochs from 0.1).
NORMED = ("scaled=true", "layer_norm=true")
FAMILY = (
    Member("lr", "lr", frappe=("train.l2=1e-5",), ml1m=("train.l2=1e-5",), frappe_published=".9356/.3076 (BARS)"),
    Member(
        "fm",
        "fm",
        frappe=("train.l2=5e-6", *STEADY),
        ml1m=("train.l2=1e-4", *STEADY),
        frappe_published=".9671/.2065 (BARS)",
    ),
    Member("gbdt", "gbdt", "boosted trees"),
    Member(
        "mlp",
        "mlp",
        frappe=("dropout=0.2",),
        frappe_seeds=FIVE,
        ml1m_seeds=THREE,
        frappe_published=".98405 ± .00051/.15837 (BARS, 5 runs of DNN)",
        ml1m_published=".8929/.3201 (DNN, DCN-V2 paper)",
    ),
    Member(
        "wide_deep",
        "wide_deep",
        "no crosses",
        frappe=("train.l2=0.1", "dropout=0.6"),
        frappe_seeds=FIVE,
        frappe_published=".98307 ± .00079/.15398 (BARS, 5 runs)",
    ),
    Member(
        "deepfm",
        "deepfm",
        frappe=("dropout=0.2",),
        frappe_seeds=FIVE,
        ml1m_seeds=THREE,
        frappe_published=".98395 ± .00016/.14946 (BARS, 5 runs)",
        ml1m_published=".8932/.3202 (DCN-V2 paper)",
    ),
    Member(
        "dcn",
        "dcn",
        frappe=("dropout=0.2",),
        frappe_seeds=FIVE,
        ml1m_seeds=THREE,
        frappe_published=".98342 ± .00031/.15068 (BARS, 5 runs)",
        ml1m_published=".8935/.3197 (DCN-V2 paper)",
    ),
    Member(
        "dcn_v2",
        "dcn_v2",
        frappe=("num_cross=4",),
        frappe_seeds=FIVE,
        ml1m_seeds=THREE,
        frappe_published=".98382 ± .00043/.15204 (BARS, 5 runs); FuxiCTR 2.3.10 on these files .98366, .98437",
        ml1m_published=".8950/.3170 (DCN-V2 paper)",
    ),
    Member("dcn_mix", "dcn_mix", "4 experts of rank 32", ml1m_seeds=THREE, ml1m_published=".8964/.3160 (DCN-V2 paper)"),
    Member("gdcn_s", "gdcn_s", frappe_published=".9838 (GDCN paper, its own split)"),
    Member(
        "gdcn_p",
        "gdcn_p",
        frappe_seeds=FIVE,
        ml1m_seeds=THREE,
        frappe_published=".9852 (GDCN paper, its own split)",
    ),
    Member(
        "autoint",
        "autoint",
        "3 layers, 2 heads, 64 wide, layer norm",
        frappe=(*ATTENTION, *NORMED, "train.l2=0.1", "hidden=[]", "dropout=0"),
        ml1m=(*ATTENTION, *NORMED, "hidden=[]", "dropout=0"),
    ),
    Member(
        "autoint-deep",
        "autoint",
        "6 layers, 4 heads, 128 wide, layer norm",
        frappe=("num_layers=6", "num_heads=4", "attention_dim=128", *NORMED, "hidden=[]", "dropout=0"),
        frappe_seeds=(0,),
        ml1m_seeds=(),
        frappe_published=".9831/.1637 (BARS)",
    ),
    Member(
        "autoint+",
        "autoint",
        "the same with 400-400-400",
        frappe=(*ATTENTION, *NORMED, "train.l2=0.1", "dropout=0.1"),
        ml1m=(*ATTENTION, *NORMED),
        frappe_published=".9848/.1490 (BARS, 5 layers, 4 heads, 128 wide)",
        ml1m_published=".8928/.3204 (DCN-V2 paper)",
    ),
    Member(
        "dlrm",
        "dlrm",
        "dot products",
        frappe=("train.l2=0.1",),
        ml1m_published=".8890/.3245 (DCN-V2 paper)",
    ),
    Member("dhen", "dhen", "2 layers of dot and linear"),
    Member("gmf", "gmf", "ids alone", frappe=("train.l2=1e-4",), ml1m=SMALL_L2),
    Member("neumf", "neumf", "ids alone", frappe=("train.l2=1e-4",), ml1m=("train.l2=1e-4",)),
)


def _member(member: Member, on: str, seeds: tuple[int, ...], sets: tuple[str, ...], published: str) -> Experiment:
    return Experiment(
        name=f"{on}-{member.key}",
        table=f"family-{on}",
        model=member.model,
        setting=member.setting,
        seeds=seeds,
        sets=sets,
        published=published,
        **{"frappe": FRAPPE, "ml1m": ML1M}[on],
    )


def _family() -> list[Experiment]:
    return [
        *(_member(m, "frappe", m.frappe_seeds, m.frappe, m.frappe_published) for m in FAMILY),
        *(_member(m, "ml1m", m.ml1m_seeds, m.ml1m, m.ml1m_published) for m in FAMILY if m.ml1m_seeds),
    ]


# ---- NCF: ids alone, the last item of each user among 99 others ----
# Settings and numbers of epochs were chosen with the newest train item of each user kept for validation: by the AUC of
# those rows among sampled negatives, and by their HR@10 and NDCG@10 among 99 drawn items. "All rows" means that these
# rows are then trained on as well, as in the published protocol, for as many epochs as validation had found.

NCF_DATA: dict[str, Any] = {
    "table": "ncf",
    "data": "movielens-1m",
    "source": "ml-1m",
    "protocol": "ncf",
    "seeds": (0,),
    "metrics": ("hr@10", "ndcg@10"),
}
NCF_ALL: dict[str, Any] = {**NCF_DATA, "options": (("valid", False),)}
NCF_SETS = ("train.batch_size=2048", "train.negatives=4")
GMF_SETS = (*NCF_SETS, "embedding_dim=64", "train.learning_rate=0.002")
TOWERS = ("[16]", "[32, 16]", "[64, 32, 16]", "[128, 64, 32, 16]", "[256, 128, 64, 32, 16]")
TOWER_SETS = tuple((*NCF_SETS, f"layers={layers}", "train.learning_rate=0.001") for layers in TOWERS)
WIDE_SETS = (*NCF_SETS, "layers=[512, 256, 128, 64]")
NEUMF_SETS = (*TOWER_SETS[3], "embedding_dim=64")
MF_SETS = (
    "embedding_dim=192",
    "embedding_std=0.1",
    "train.batch_size=4096",
    "train.negatives=8",
    "train.learning_rate=0.002",
    "train.l2=1e-6",
)


def _tower(depth: int) -> Experiment:
    return Experiment(
        name=f"ncf-mlp-{depth}",
        model="ncf_mlp",
        setting=f"MLP-{depth}, 16 factors",
        sets=(*TOWER_SETS[depth], "train.epochs=14"),
        published="" if depth else ".4535/.2543 (popularity, Rendle et al. 2020)",
        **NCF_DATA,
    )


NCF: tuple[Experiment, ...] = (
    Experiment(
        name="ncf-gmf",
        model="gmf",
        setting="64 factors",
        sets=(*GMF_SETS, "train.epochs=20"),
        **NCF_DATA,
    ),
    *(_tower(depth) for depth in range(5)),
    Experiment(
        name="ncf-all-mf",
        model="mf",
        setting="192 factors, 8 negatives, L2 1e-6 of whole tables, all rows",
        sets=(*MF_SETS, "train.epochs=13"),
        published=".7294/.4523 (Rendle et al. 2020, mean of 8)",
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-mf-rows",
        model="mf",
        setting="192 factors, 8 negatives, L2 .005 of looked-up rows, all rows",
        sets=(*MF_SETS[:4], "train.learning_rate=0.003", "train.l2_rows=0.005", "train.epochs=10"),
        published=".7294/.4523 (Rendle et al. 2020, mean of 8)",
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-gmf",
        model="gmf",
        setting="64 factors, L2 1e-6, all rows",
        sets=(*GMF_SETS, "train.l2=1e-6", "train.epochs=11"),
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-gmf-192",
        model="gmf",
        setting="192 factors, 8 negatives, L2 1e-6 of whole tables as for mf, all rows",
        sets=(*MF_SETS, "train.epochs=13"),
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-gmf-192-rows",
        model="gmf",
        setting="192 factors, 8 negatives, L2 3e-4 of looked-up rows, output weights hardly move, all rows",
        sets=(
            "embedding_dim=192",
            "train.batch_size=4096",
            "train.negatives=8",
            "embedding_std=0.2",
            "train.learning_rate=1e-5",
            "train.embedding_learning_rate=0.01",
            "train.l2_rows=3e-4",
            "train.epochs=10",
        ),
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-mlp-3",
        model="ncf_mlp",
        setting="MLP-3, 16 factors, all rows",
        sets=(*TOWER_SETS[3], "train.epochs=10"),
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-mlp-3-64",
        model="ncf_mlp",
        setting="MLP-3, 64 factors, all rows",
        sets=(*WIDE_SETS, "train.learning_rate=0.001", "train.epochs=6"),
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-neumf",
        model="neumf",
        setting="64 factors and MLP-3, L2 1e-6 of whole tables",
        sets=(*NEUMF_SETS, "train.l2=1e-6", "train.epochs=14"),
        **NCF_DATA,
    ),
    Experiment(
        name="ncf-all-neumf",
        model="neumf",
        setting="64 factors and layers 32, 16, 8; L2 .003 of looked-up rows, all rows",
        sets=(
            *NCF_SETS,
            "embedding_dim=64",
            "layers=[32, 16, 8]",
            "train.learning_rate=0.001",
            "train.embedding_learning_rate=0.005",
            "train.l2_rows=0.003",
            "train.epochs=5",
        ),
        published=".705/.426 (He et al. 2017, 64 factors)",
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-neumf-pretrained",
        model="neumf",
        setting="64 factors and MLP-3, from its trained halves, all rows",
        preset="pretrained",
        sets=(
            *NEUMF_SETS[:3],
            "embedding_dim=64",
            "pretrained.gmf={runs}/ncf-all-gmf/0",
            "pretrained.mlp={runs}/ncf-all-mlp-3/0",
            "train.epochs=1",
        ),
        published=".730/.447 (He et al. 2017, 64 factors)",
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-neumf-pretrained-192",
        model="neumf",
        setting="192 factors and MLP-3, from its trained halves, all rows",
        preset="pretrained",
        sets=(
            *NEUMF_SETS[:3],
            "embedding_dim=192",
            "pretrained.gmf={runs}/ncf-all-gmf-192/0",
            "pretrained.mlp={runs}/ncf-all-mlp-3/0",
            "train.epochs=1",
        ),
        published=".730/.447 (He et al. 2017, 64 factors)",
        **NCF_ALL,
    ),
    Experiment(
        name="ncf-all-neumf-pretrained-rows",
        model="neumf",
        setting="192 factors and MLP-3 of 64, from its trained halves under α = .7, all rows",
        preset="pretrained",
        sets=(
            *WIDE_SETS,
            "embedding_dim=192",
            "alpha=0.7",
            "pretrained.gmf={runs}/ncf-all-gmf-192-rows/0",
            "pretrained.mlp={runs}/ncf-all-mlp-3-64/0",
            "train.epochs=1",
        ),
        published=".730/.447 (He et al. 2017, 64 factors)",
        **NCF_ALL,
    ),
)


# ---- Samples of Criteo and Avazu: whether everything runs, not which model is better ----


def _samples() -> list[Experiment]:
    return [
        Experiment(
            name=f"samples-{data}-{member.key}",
            table=f"samples-{data}",
            data=data,
            source=data,
            protocol=protocol,
            model=member.model,
            setting=member.setting,
            seeds=(0,),
            preset="bars",
            sets=tuple(text for text in member.ml1m if not text.startswith("train.l2")),
        )
        for data, protocol in (("criteo", "random"), ("avazu", "random"))
        for member in FAMILY
        if member.model not in ("gmf", "neumf") and member.ml1m_seeds
    ]


# ---- Depth, rank and widths, one seed each ----

CROSSED = ("dcn", "dcn_v2", "gdcn_p")
MODULES = ("dot", "attention", "convolution", "linear", "cross")
KEEPS = (0.99, 0.95, 0.9, 0.8)


def _one_seed(name: str, table: str, model: str, setting: str, **more: Any) -> Experiment:
    return Experiment(
        name=name, table=table, model=model, setting=setting, seeds=(0,), in_order=True, **{**ML1M, **more}
    )


def _with(experiment: Experiment, *sets: str) -> Experiment:
    return replace(experiment, sets=(*experiment.sets, *sets))


def _depth() -> list[Experiment]:
    return [
        _with(_one_seed(f"depth-{model}-{n}", "depth", model, f"{n} cross layers"), f"num_cross={n}")
        for model in CROSSED
        for n in range(1, 7)
    ]


def _dhen() -> list[Experiment]:
    about: dict[str, Any] = {"metrics": ("ne", "auc", "logloss")}
    deep = [
        _with(_one_seed(f"dhen-{n}", "dhen", "dhen", f"{n} layers of dot and linear", **about), f"num_layers={n}")
        for n in (1, 2, 4, 8)
    ]
    left_out = [(name, tuple(m for m in MODULES if m != name)) for name in MODULES]
    mixes = [("all five", MODULES), *((f"all but {name}", rest) for name, rest in left_out)]
    mixes += [(f"{name} alone", (name,)) for name in MODULES]
    some = [
        _with(
            _one_seed(f"dhen-{setting.replace(' ', '-')}", "dhen-modules", "dhen", f"2 layers of {setting}", **about),
            "num_layers=2",
            f"modules={[list(modules)]}",
        )
        for setting, modules in mixes
    ]
    return [*deep, _one_seed("dhen-dlrm", "dhen", "dlrm", "for comparison", **about), *some]


def _low_rank() -> list[Experiment]:
    full = _one_seed("rank-full", "rank", "dcn_v2", "full rank")
    return [full, *(_with(_one_seed(f"rank-{r}", "rank", "dcn_v2", f"rank {r}"), f"rank={r}") for r in (4, 8, 16, 32))]


def _fdo() -> list[Experiment]:
    found = []
    for data, seeds in ((FRAPPE, THREE), (ML1M, (0,))):
        table = f"fdo-{data['source']}"
        full = Experiment(
            name=f"{table}-full",
            table=table,
            model="gdcn_p",
            setting="width 16 everywhere",
            in_order=True,
            seeds=seeds,
            sets=("embedding_dim=16",),
            **data,
        )
        found.append(full)
        for keep in KEEPS:
            name, setting = f"{table}-{keep:.2f}", f"{keep:.0%} of the variance kept"
            found.append(replace(full, name=name, setting=setting, widths_of=(full.name, keep)))
    return found


# ---- Adult: simply wide, simply deep, both ----

ADULT: dict[str, Any] = {"data": "adult", "source": "adult", "table": "adult", "seeds": FIVE}
ADULT_LOOP = ("train.batch_size=256", "train.epochs=40")


def _adult() -> list[Experiment]:
    both = Experiment(
        name="adult-wide_deep-crosses",
        model="wide_deep",
        setting="wide with crosses, deep",
        protocol="crosses",
        preset="paper",
        sets=(*ADULT_LOOP, "hidden=[100, 50]", "embedding_dim=8"),
        **ADULT,
    )
    wide = ("train.wide_optimizer=ftrl", "train.wide_learning_rate=1.0", "train.ftrl_l1=1e-3")
    return [
        both,
        replace(both, name="adult-wide_deep-plain", setting="wide without crosses, deep", protocol="plain"),
        replace(
            both,
            name="adult-mlp",
            model="mlp",
            setting="simply deep",
            protocol="plain",
            preset=None,
            sets=(
                *ADULT_LOOP,
                *both.sets[2:],
                "batch_norm=false",
                "train.optimizer=adagrad",
                "train.learning_rate=0.01",
            ),
        ),
        replace(
            both, name="adult-lr-crosses", model="lr", setting="simply wide", preset=None, sets=(*ADULT_LOOP, *wide)
        ),
        replace(
            both,
            name="adult-lr-plain",
            model="lr",
            setting="without crosses",
            protocol="plain",
            preset=None,
            sets=(*ADULT_LOOP, *wide),
        ),
    ]


# ---- Retrieval: the whole catalogue ranked for each user, train items hidden ----

LISTS: dict[str, Any] = {"seeds": (0,), "metrics": ("recall@20", "ndcg@20")}
GOWALLA: dict[str, Any] = {
    "table": "gowalla",
    "data": "gowalla",
    "source": "gowalla",
    "options": (("valid", 0),),
    **LISTS,
}
LASTFM: dict[str, Any] = {"data": "lastfm", "source": "hetrec2011-lastfm-2k", **LISTS}
KUAIRAND: dict[str, Any] = {"data": "kuairand", "source": "kuairand", "seeds": (0,)}
TOWERS_OF_LINES = ("train.batch_size=1024", "train.epochs=15", "hidden=[]", "embedding_dim=64")
EVERY_ITEM = ("train.loss=full_softmax", "train.shuffle=users")
COSINES = ("layers=2", "similarity=cosine", "temperature=0.1")
SAGE = ("train.loss=softmax", "train.batch_size=4096", "train.learning_rate=0.003", "train.epochs=15")
IN_BATCH = ("train.loss=softmax", "embedding_dim=64", "train.batch_size=1024", "train.learning_rate=0.003")


def _retrieval() -> list[Experiment]:
    top_n: dict[str, Any] = {"table": "lastfm", "protocol": "top-n", **LASTFM}
    new: dict[str, Any] = {"table": "lastfm-new", "protocol": "new-artists", **LASTFM}
    plays: dict[str, Any] = {**LASTFM, "table": "lastfm-plays", "protocol": "plays", "metrics": ("poisson_deviance",)}
    clicks: dict[str, Any] = {**KUAIRAND, "table": "kuairand-tasks", "protocol": "tasks"}
    clicks["metrics"] = ("is_click.auc", "is_click.logloss", "long_view.auc", "long_view.logloss")
    videos: dict[str, Any] = {**KUAIRAND, **LISTS, "table": "kuairand", "protocol": "retrieval"}
    heads = ("train.batch_size=1024", "train.epochs=10", "hidden=[64, 32]", "dropout=0.2", "train.l2=1e-5")
    return [
        Experiment(name="gowalla-popularity", model="popularity", **GOWALLA),
        Experiment(name="gowalla-item_knn", model="item_knn", published=".1570/.1214 (BARS, ItemCF)", **GOWALLA),
        Experiment(
            name="gowalla-lightgcn",
            model="lightgcn",
            setting="2 layers, cosine / 0.1, softmax over all places",
            sets=(
                *COSINES,
                *EVERY_ITEM,
                "train.batch_size=27000",
                "train.learning_rate=0.03",
                "train.epochs=40",
            ),
            published=".1823/.1555 (LightGCN-PyTorch, 3 layers, 1000 epochs of BPR)",
            **GOWALLA,
        ),
        Experiment(
            name="gowalla-lightgcn-dot",
            model="lightgcn",
            setting="2 layers, dot products, L2 .06 of looked-up rows, softmax over all places",
            sets=(
                "layers=2",
                "similarity=dot",
                "temperature=1.0",
                "train.l2_rows=0.06",
                *EVERY_ITEM,
                "train.batch_size=27000",
                "train.learning_rate=0.02",
                "train.epochs=60",
            ),
            **GOWALLA,
        ),
        Experiment(
            name="gowalla-mf",
            model="mf",
            setting="softmax over all places",
            sets=(
                "embedding_dim=64",
                "embedding_std=0.1",
                *EVERY_ITEM,
                "train.batch_size=27000",
                "train.learning_rate=0.003",
                "train.epochs=20",
            ),
            **GOWALLA,
        ),
        Experiment(name="lastfm-popularity", model="popularity", **top_n),
        Experiment(name="lastfm-item_knn", model="item_knn", **top_n),
        Experiment(
            name="lastfm-mf-als",
            model="mf",
            setting="ALS",
            sets=("train.loss=als", "embedding_dim=64"),
            **top_n,
        ),
        Experiment(
            name="lastfm-mf", model="mf", setting="softmax in the batch", sets=(*IN_BATCH, "train.epochs=40"), **top_n
        ),
        Experiment(name="lastfm-two_tower", model="two_tower", setting="ids and tags", sets=TOWERS_OF_LINES, **top_n),
        *(
            Experiment(
                name=f"lastfm-lightgcn{name}",
                model="lightgcn",
                setting=f"2 layers, cosine / 0.1, softmax over all artists, {words}",
                sets=(
                    *COSINES,
                    f"friends={friends}",
                    *EVERY_ITEM,
                    "train.batch_size=8192",
                    "train.learning_rate=0.01",
                    "train.epochs=40",
                ),
                **top_n,
            )
            for name, words, friends in (("", "without friends", "false"), ("-friends", "with friends", "true"))
        ),
        Experiment(
            name="lastfm-graphsage",
            model="graphsage",
            setting="ids and tags, softmax in the batch",
            sets=SAGE,
            **top_n,
        ),
        Experiment(
            name="lastfm-new-graphsage",
            model="graphsage",
            setting="ids and tags, softmax in the batch, 1,024 uniform negatives",
            sets=(*SAGE, "train.uniform_negatives=1024"),
            **new,
        ),
        Experiment(name="lastfm-new-popularity", model="popularity", **new),
        Experiment(
            name="lastfm-new-two_tower",
            model="two_tower",
            setting="ids and tags, a tenth of the ids hidden in training, 1,024 uniform negatives",
            sets=(*TOWERS_OF_LINES, "unknown_share=0.1", "train.uniform_negatives=1024"),
            **new,
        ),
        Experiment(name="lastfm-plays-popularity", model="popularity", **plays),
        Experiment(name="lastfm-plays-mf", model="mf", sets=("embedding_dim=16", "train.l2=1e-4"), **plays),
        Experiment(name="lastfm-plays-fm", model="fm", sets=("train.l2=1e-4",), **plays),
        Experiment(
            name="lastfm-plays-mlp", model="mlp", sets=("hidden=[64, 32]", "train.l2=1e-4", "dropout=0.2"), **plays
        ),
        Experiment(name="kuairand-popularity", model="popularity", **videos),
        Experiment(name="kuairand-item_knn", model="item_knn", **videos),
        Experiment(
            name="kuairand-two_tower", model="two_tower", sets=("train.batch_size=1024", "train.epochs=6"), **videos
        ),
        Experiment(name="kuairand-lr", model="lr", sets=heads[:2], **clicks),
        Experiment(name="kuairand-mlp", model="mlp", sets=heads, **clicks),
        Experiment(name="kuairand-dcn_v2", model="dcn_v2", sets=heads, **clicks),
    ]


EXPERIMENTS = (
    *_family(),
    *(
        Experiment(name=f"ml100k-{model}", model=model, published=published, **more, **ML100K)
        for model, published, more in (
            ("mf", "a tuned mf: about .91 to .92", {"sets": (*SHORT, "train.l2=2e-4")}),
            ("fm", "", {"sets": (*SHORT, "train.l2=5e-4", "embedding_std=0.05")}),
            ("deepfm", "", {"preset": "bars", "sets": SHORT[1:2]}),
            ("dcn_v2", "", {"preset": "bars", "sets": SHORT[1:2]}),
        )
    ),
    *NCF,
    *_adult(),
    *_samples(),
    *_depth(),
    *_dhen(),
    *_low_rank(),
    *_fdo(),
    *_retrieval(),
)
