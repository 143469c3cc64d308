#!/bin/sh
# An environment of its own for each library that the benchmarks measure beside weft, under .peers/ (not in git).
#
#     benchmarks/peers/setup.sh                      all of them
#     benchmarks/peers/setup.sh fuxictr recbole      some of them
#
# A library that cannot be installed leaves the end of pip's words in .peers/NAME.failed, and the benchmarks say so.
# FuxiCTR's wheel lacks its models: FUXICTR_SOURCE names a checkout of github.com/reczoo/FuxiCTR; without it one is
# fetched, of the commit whose version file says 2.3.10.
# Where the package index offers only torch's CUDA build and no GPU is there, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to avoid gigabytes.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
TORCH="torch==2.13.0"
FUXICTR_COMMIT=0245987fdc1d43c36164ea496a02324885a8557a
command -v nvidia-smi >/dev/null && FBGEMM=fbgemm-gpu || FBGEMM=fbgemm-gpu-cpu

requirements() {
    case $1 in
        fuxictr) echo "$TORCH fuxictr==2.3.10 polars>=1,<2 pandas<3 numpy<2.3 setuptools" ;;
        deepctr_torch) echo "$TORCH deepctr-torch==0.3.0 requests pandas<3 numpy<2.3 polars" ;;
        torch_rechub) echo "$TORCH torch-rechub==0.9.0 pandas<3 numpy<2.3 polars" ;;
        # Its own pins (ray, colorlog) are for searches and colours, and hold it to old versions of Python.
        recbole) echo "$TORCH pandas<3 numpy<2.3 scipy scikit-learn tqdm pyyaml colorlog colorama tensorboard thop tabulate plotly texttable psutil setuptools<80 polars" ;;
        torchrec) echo "$TORCH numpy<2.3 tqdm torchmetrics tensordict pyre-extensions iopath psutil" ;;
        *) echo "setup.sh knows fuxictr, deepctr_torch, torch_rechub, recbole and torchrec, not $1" >&2; exit 2 ;;
    esac
}

without_their_pins() {
    case $1 in
        recbole) echo "recbole==1.2.1" ;;
        torchrec) echo "$FBGEMM==1.8.0 torchrec==1.8.0" ;;
    esac
}

install() {
    place=.peers/$1
    rm -rf "$place" "$place.failed"
    "$PYTHON" -m venv "$place" || return 1
    # shellcheck disable=SC2046
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check $(requirements "$1") || return 1
    for wheel in $(without_their_pins "$1"); do
        "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$wheel" || return 1
    done
}

mkdir -p .peers
if [ -z "${FUXICTR_SOURCE:-}" ] && [ ! -d .peers/FuxiCTR/model_zoo ]; then
    git init --quiet .peers/FuxiCTR &&
        git -C .peers/FuxiCTR fetch --quiet --depth 1 https://github.com/reczoo/FuxiCTR $FUXICTR_COMMIT &&
        git -C .peers/FuxiCTR checkout --quiet FETCH_HEAD ||
        echo "FuxiCTR's models could not be fetched; set FUXICTR_SOURCE to a checkout of $FUXICTR_COMMIT"
fi
[ $# -gt 0 ] || set -- fuxictr deepctr_torch torch_rechub recbole torchrec
status=0
for name in "$@"; do
    requirements "$name" >/dev/null || exit 2
    if install "$name" >".peers/$name.log" 2>&1; then
        echo "$name: installed in .peers/$name"
    else
        tail -n 3 ".peers/$name.log" >".peers/$name.failed"
        rm -rf ".peers/$name"
        echo "$name: not installed, see .peers/$name.log"
        status=1
    fi
done
exit $status
