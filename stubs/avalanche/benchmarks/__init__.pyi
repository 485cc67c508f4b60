from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from avalanche.benchmarks.utils import AvalancheDataset

_T = TypeVar("_T")
_Experience = TypeVar("_Experience", bound=CLExperience)
_Stream = TypeVar("_Stream", bound=CLStream[Any])

class CLExperience:
    def __init__(self, current_experience: int, origin_stream: CLStream[Any] | None) -> None: ...
    @property
    def current_experience(self) -> int: ...
    @current_experience.setter
    def current_experience(self, id: int) -> None: ...
    @property
    def origin_stream(self) -> CLStream[Any]: ...
    @origin_stream.setter
    def origin_stream(self, stream: CLStream[Any]) -> None: ...

class DatasetExperience(CLExperience):
    def __init__(self, *, dataset: AvalancheDataset[Any], current_experience: int | None = None) -> None: ...
    @property
    def dataset(self) -> AvalancheDataset[Any]: ...

class CLStream(Generic[_Experience]):
    name: str
    benchmark: CLScenario[Any]

    def __init__(
        self,
        name: str,
        exps_iter: Iterable[_Experience],
        benchmark: CLScenario[Any] | None = None,
        set_stream_info: bool = True,
    ) -> None: ...
    def __iter__(self) -> Iterator[_Experience]: ...

class EagerCLStream(CLStream[_Experience], Sequence[_Experience]):
    def __init__(
        self,
        name: str,
        exps: Sequence[_Experience],
        benchmark: CLScenario[Any] | None = None,
        set_stream_info: bool = True,
        slice_ids: Iterable[int] | None = None,
    ) -> None: ...
    @overload
    def __getitem__(self, item: int) -> _Experience: ...
    @overload
    def __getitem__(self, item: slice) -> EagerCLStream[_Experience]: ...
    def __iter__(self) -> Iterator[_Experience]: ...
    def __len__(self) -> int: ...

class CLScenario(Generic[_Stream]):
    def __init__(self, streams: Iterable[_Stream]) -> None: ...
    @property
    def streams(self) -> dict[str, _Stream]: ...

def benchmark_from_datasets(
    **dataset_streams: Sequence[AvalancheDataset[Any]],
) -> CLScenario[EagerCLStream[DatasetExperience]]: ...
def with_classes_timeline(obj: _T) -> _T: ...
def with_task_labels(obj: _T) -> _T: ...
