"""What the recorder of metrics makes of pages before it keeps them.

We test these aspects:
- whatever names a process, a run, a node or an address is numbered, alike in all pages;
- Python's own families and hours are left out; names, other labels and values stay as they are;
- a page beyond the limit loses buckets and families that nobody needs, and says which;
- what is of one machine or one hour is found where it is left;
- what is kept is read as it was written, and a part can be recorded anew beside the others.
"""

from pathlib import Path

import pytest

from tests.recording.files import Recording, load, save
from tests.recording.normal import LARGE, LEFT_OUT, foreign, normalise

WORKER = "c9d864c2e86f2e579b33ce63141ec1a4391cba15769b6ae87933cfb2"
SESSION = "session_2026-01-02_03-04-05_678901_2345"


def line(name: str, value: str = "1.0", **labels: str) -> str:
    inner = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {value}\n"


def normalised(*pages: str, needed: tuple[str, ...] = ()) -> list[str]:
    return normalise({"a": pages}, needed)["a"]


def test_identities_are_numbered_alike_in_all_pages() -> None:
    first = line("a", WorkerId=WORKER, ReplicaId="4zv6mlw5", SessionName=SESSION, pid="77")
    second = line("b", replica="4zv6mlw5", handle=f"app#{WORKER}#x", pid="78", ip="192.0.2.7")
    pages = normalise({"one": [first], "two": [second, first]}, ())
    numbered = line(
        "a", WorkerId="worker-1", ReplicaId="replica-1", SessionName="session-1", pid="process-1"
    )
    assert pages["one"] == [numbered]
    other = line("b", replica="replica-1", handle="handle-1", pid="process-2", ip="10.0.0.1")
    assert pages["two"] == [other, numbered]


def test_what_is_in_front_of_a_port_is_a_server() -> None:
    (page,) = normalised(line("a", prometheus="127.0.0.1:9090", version="1.2.3.400"))
    assert page == line("a", prometheus="server-1", version="1.2.3.400")


def test_what_servers_say_of_metrics_stays() -> None:
    text = "# HELP a What it is.\n# TYPE a counter\n" + line(
        "a_total", "2e+06", path="/v1/x", le="1"
    )
    assert normalised(text + "\n# EOF\n") == [text]


@pytest.mark.parametrize("name", ["python_info", "process_start_time_seconds", "a_created"])
def test_what_is_of_python_or_of_an_hour_is_left_out(name: str) -> None:
    about = f"# HELP {name} Text.\n# TYPE {name} gauge\n"
    assert normalised(about + line(name) + f"{name} 1.5\n" + line("a")) == [line("a")]


def test_a_large_page_loses_what_nobody_needs_and_says_so() -> None:
    wide = "x" * LARGE
    about = "# TYPE {} histogram\n"
    buckets, needed, inside = "ray_vllm_e2e_bucket", "ray_vllm_ttft_bucket", "ray_tasks"
    text = about.format("ray_vllm_e2e") + line(buckets, le="1") + line("ray_vllm_e2e_sum")
    text += about.format("ray_vllm_ttft") + line(needed, le="1")
    text += about.format(inside) + line(inside, Name=wide)
    (page,) = normalised(text, needed=(needed,))
    kept = [
        LEFT_OUT,
        f"#   {buckets}",
        f"#   {inside}",
        "# TYPE ray_vllm_e2e histogram",
        line("ray_vllm_e2e_sum").strip(),
        "# TYPE ray_vllm_ttft histogram",
        line(needed, le="1").strip(),
    ]
    assert page.splitlines() == kept
    assert normalised(text.replace(wide, "x"))[0].count("\n") == text.count("\n")


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample of a page"):
        normalised("<html>\n")


@pytest.mark.parametrize(
    "left",
    [
        line("a", where="/var/x"),
        line("a", ip="192.0.2.7"),
        line("a", id=WORKER),
        line("a", run=SESSION),
        line("a", host="builder"),
        line("a_start_time_seconds", "1.7953851798e+09"),
        line("a", id="b66e5bf8-c9cb-46f4-b74b-2c75185650ac"),
    ],
)
def test_what_is_of_one_machine_or_one_hour_is_found(left: str) -> None:
    assert foreign(line("b") + left, ["builder"]) == [left.strip()]


def test_what_is_of_all_machines_is_not_foreign() -> None:
    digest = line("a", digest="c" * 64, route="/v1/completions", ip="10.0.0.1")
    assert foreign(digest + line("a_bytes", "1.7953851798e+09") + "# /var/x\n", ["builder"]) == []


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    pages = {
        "a": [line("x"), "# TYPE x gauge\n" + line("x", "2.0") + line("y")],
        "b": ["", line("z")],
    }
    about = {"a": "One server.", "b": "Another one."}
    recording = Recording({"vllm": "1"}, about, pages, 15)
    save(recording, {"x"}, tmp_path)
    assert (tmp_path / "a.prom").read_text().startswith("# One server.\n# Recorded by ")
    assert not (tmp_path / "before" / "0" / "b.prom").exists()
    assert load(tmp_path) == recording
    save(load(tmp_path), {"x"}, tmp_path)
    assert load(tmp_path) == recording


def test_of_earlier_moments_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    pages = {"a": [line("x") + line("y"), line("x") + line("y")]}
    save(Recording({}, {"a": "One."}, pages, 15), {"x"}, tmp_path)
    assert load(tmp_path).pages["a"] == [line("x"), line("x") + line("y")]
