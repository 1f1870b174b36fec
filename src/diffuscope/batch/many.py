"""Many requests, each one call: shared by processes that know nothing of each other, and resumed where they ended.

Process ``rank`` of ``processes`` makes every ``processes``-th line of the list. A picture's name is its line's number,
and a file is there once it is whole, so that what is there is done. Each request is one call by itself: its bits do not
depend on its neighbours, nor on how many processes there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path

from diffuscope.errors import DiffuscopeError, InputError, OutputError, Unquoted
from diffuscope.output import numbered
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.pipeline.plan import texts_of
from diffuscope.pipeline.receipt import Receipt
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.schema import loaded_object
from diffuscope.weights.store.documents import write_text

LIST = "requests.jsonl"
"""In the folder: the requests as they were asked, each with its seed."""


def read_requests(path: str | PathLike[str]) -> list[Request]:
    """The requests of a file of JSON lines; one without a seed gets the number of its line, from 1, as its seed.

    Raises:
        InputError: no such file, no request in it, or a line that is none; the argument names the line.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            found = [_request(line, number) for number, line in enumerate(file, 1)]
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError("requests", str(path), "a file of requests, one JSON object a line") from error
    if not found:
        raise InputError("requests", Unquoted("an empty file"), "one JSON object a line")
    return found


def _request(line: str, number: int) -> Request:
    """The request of a line, checked once: a file may have a million."""
    try:
        values = loaded_object(line)
        request = Request.from_dict(values if values.get("seed") is not None else {**values, "seed": number})
        if request.prompt is None:
            raise InputError("prompt", None, "a text")
        return request
    except InputError as error:
        raise InputError(f"line {number}: {error.argument}", error.got, error.want, error.hint) from None


def begin(folder: str | PathLike[str], requests: Sequence[Request]) -> Path:
    """Make the folder, or find there the same list, which may be longer or shorter.

    Raises:
        InputError: it has pictures of other requests.
        OutputError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} ({error.strerror}); choose another") from error
    lines, known = [request.to_json() for request in requests], []
    with suppress(FileNotFoundError):
        known = (folder / LIST).read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    for number, (old, new) in enumerate(zip(known, lines, strict=False), 1):
        if old != new:
            got = Unquoted(f"a folder with other pictures: line {number} of its {LIST} differs")
            raise InputError("out", got, "a new folder, or that of the same list")
    if len(lines) > len(known):
        write_text(folder / LIST, "\n".join(lines) + "\n")
    return folder


def files(folder: Path, number: int, request: Request) -> list[Path]:
    """The pictures of the request of a line: ``000007.png``, or ``000007-0.png`` and so on for several."""
    return numbered(folder / f"{number:06d}.png", len(texts_of(request.prompt)) * request.num_images_per_prompt)


def generate_many(
    pipe: Pipeline,
    requests: Sequence[Request],
    folder: str | PathLike[str],
    *,
    rank: int = 0,
    processes: int = 1,
    failed: Callable[[int, DiffuscopeError], None] | None = None,
) -> Iterator[tuple[int, Result | None]]:
    """Make this process's share of the pictures that the folder lacks, each with its receipt.

    Args:
        pipe: the model.
        requests: the whole list, such as that of ``read_requests``, which gives each a seed.
        folder: where they are, or will be.
        rank: number of this process, from 0.
        processes: how many there are.
        failed: called with a line's number and its error, and the others go on; without it an error ends all.

    Yields:
        The number of each line of the share, from 1, and its result; None where its pictures were there.

    Raises:
        InputError: pictures in the folder are of other requests, or of another model or dtype.
    """
    folder = begin(folder, requests)
    there = first_picture(folder, requests)
    if there is not None:
        check_model(there, pipe.weights, receipts.dtype_name(pipe.dtype), pipe.config.name)
    for number in range(rank + 1, len(requests) + 1, processes):
        request = requests[number - 1]
        if all(name.is_file() for name in files(folder, number, request)):
            yield number, None
            continue
        try:
            result = pipe(request)
        except DiffuscopeError as error:
            if failed is None:
                raise
            failed(number, error)
            continue
        result.save(folder / f"{number:06d}.png")
        yield number, result


def first_picture(folder: Path, requests: Sequence[Request]) -> Receipt | None:
    """The receipt of the first picture that is there."""
    there = {path.name for path in folder.glob("*.png")}
    if not there:
        return None
    every = (path for number, each in enumerate(requests, 1) for path in files(folder, number, each))
    found = next((path for path in every if path.name in there), None)
    return None if found is None else receipts.read(found)


def check_model(there: Receipt, weights: Mapping[str, str], dtype: str, model: str) -> None:
    """Refuse to add to pictures that another model made, or the same in another dtype."""
    if {name: there["weights"].get(name) for name in weights} != weights or there["dtype"] != dtype:
        got = Unquoted(f"a folder with pictures of {there['model']!r} in {there['dtype']}, and other weights or dtype")
        raise InputError("out", got, f"a new folder, or that of {model!r} in {dtype}")
