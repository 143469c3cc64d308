"""What docs/results.md is made of: every experiment on public data, by table.

Published figures are those of BARS (reczoo/BARS, boards and repeated runs) and of the papers named beside them.
"""

from dataclasses import dataclass
from typing import Any


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

# Model, settings, seeds on Frappe and on MovieLens-1M, published on each.
FAMILY: tuple[tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...], str, str], ...] = (
    ("lr", (), THREE, (0,), ".9356/.3076 (BARS, one run)", ""),
    ("fm", (), THREE, (0,), ".9671/.2065 (BARS, one run)", ""),
    ("mlp", (), THREE, (0,), ".98405 ± .00051/.15837 (BARS, 5 runs of DNN)", ".8929/.3201 (DNN, DCN-V2 paper)"),
    ("deepfm", (), THREE, (0,), ".98395 ± .00016/.14946 (BARS, 5 runs)", ".8932/.3202 (DCN-V2 paper)"),
    (
        "dcn_v2",
        ("num_cross=4",),
        FIVE,
        THREE,
        ".98382 ± .00043/.15204 (BARS, 5 runs); FuxiCTR 2.3.10 on these files .98366/.1511, .98437/.1529",
        ".8950/.3170 (DCN-V2 paper)",
    ),
)


def _family() -> list[Experiment]:
    found = []
    for model, sets, frappe_seeds, ml1m_seeds, frappe, ml1m in FAMILY:
        found.append(
            Experiment(
                name=f"frappe-{model}",
                table="family-frappe",
                model=model,
                seeds=frappe_seeds,
                sets=sets,
                published=frappe,
                **FRAPPE,
            )
        )
        found.append(
            Experiment(
                name=f"ml1m-{model}",
                table="family-ml1m",
                model=model,
                seeds=ml1m_seeds,
                published=ml1m,
                **ML1M,
            )
        )
    return found


# ---- NCF: ids alone, the last item of each user among 99 others ----
# Settings were chosen by HR@10 and NDCG@10 of the validation rows (each user's newest train item among 99 drawn items),
# the number of epochs by their AUC.

NCF_DATA: dict[str, Any] = {
    "table": "ncf",
    "data": "movielens-1m",
    "source": "ml-1m",
    "protocol": "ncf",
    "seeds": (0,),
    "metrics": ("hr@10", "ndcg@10"),
}
NCF_SETS = ("train.batch_size=2048", "train.negatives=4")
HALVES = ("embedding_dim=64", "layers=[256, 128, 64, 32, 16]")
DEPTHS = {
    0: ("layers=[16]", ".4535/.2543 (popularity, Rendle et al. 2020)"),
    1: ("layers=[32, 16]", ""),
    2: ("layers=[64, 32, 16]", ""),
    3: ("layers=[128, 64, 32, 16]", ""),
    4: (HALVES[1], ""),
}


def _tower(depth: int) -> Experiment:
    layers, published = DEPTHS[depth]
    return Experiment(
        name=f"ncf-mlp-{depth}",
        model="ncf_mlp",
        setting=f"{depth} hidden layers, 16 factors",
        sets=(*NCF_SETS, layers, "train.learning_rate=0.001", "train.epochs=14"),
        published=published,
        **NCF_DATA,
    )


NCF: tuple[Experiment, ...] = (
    Experiment(
        name="ncf-gmf",
        model="gmf",
        setting="64 factors",
        sets=(*NCF_SETS, HALVES[0], "train.learning_rate=0.002", "train.epochs=20"),
        **NCF_DATA,
    ),
    _tower(4),
    Experiment(
        name="ncf-mf",
        model="mf",
        setting="192 factors, 8 negatives",
        sets=(
            "embedding_dim=192",
            "embedding_std=0.1",
            "train.batch_size=4096",
            "train.negatives=8",
            "train.learning_rate=0.002",
            "train.l2=1e-6",
            "train.epochs=20",
        ),
        published=".7294/.4523 (Rendle et al. 2020, mean of 8)",
        **NCF_DATA,
    ),
    Experiment(
        name="ncf-neumf",
        model="neumf",
        setting="64 factors, 4 hidden layers, from scratch",
        sets=(*NCF_SETS, *HALVES, "train.learning_rate=0.001", "train.epochs=14"),
        published=".705/.426 (He et al. 2017, 64 factors)",
        **NCF_DATA,
    ),
    *(_tower(depth) for depth in (0, 1, 2, 3)),
)


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
)
