"""Time on a device, and what the device is.

On CUDA events clock the replay of a graph of calls, in which what a call costs the host does not show; calls made one by
one, in which it does, are clocked beside it. On a CPU, where figures only prove that the programs run, there is the second
alone."""

import shutil
import statistics
import subprocess
import time

import torch

__all__ = ["Clock", "card"]

QUERY = ("name", "driver_version", "compute_cap", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm",
         "clocks.max.mem", "power.limit", "temperature.gpu", "pstate")  # fmt: skip


def card() -> dict:
    """Name, driver, clocks and what else nvidia-smi says of the first GPU; names of versions."""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        found["torch name"] = torch.cuda.get_device_name()
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
        if lines:
            found |= dict(zip(QUERY, (word.strip() for word in lines[0].split(",")), strict=False))
    return found


class Clock:
    """Medians of microseconds on one device. `tiny` is for proving that everything runs."""

    def __init__(self, device: str, tiny: bool = False):
        self.device, self.tiny = device, tiny
        self.calls, self.rounds = (1, 1) if tiny else (20, 15)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, function) -> float:
        """Of one call, until the device has done it."""
        self.synchronize()
        started = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - started

    def called_us(self, function) -> float:
        """A call out of several that are made one by one."""
        function()
        several = [self.seconds(lambda: [function() for _ in range(self.calls)]) for _ in range(self.rounds)]
        return statistics.median(several) / self.calls * 1e6

    def replayed_us(self, function) -> float | None:
        """A call in a graph; None where there are no graphs, or where it can't be captured."""
        if self.device != "cuda":
            return None
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(self.calls):
                    function()
        except RuntimeError as error:
            print(f"  not captured: {str(error).splitlines()[0]}", flush=True)
            torch.cuda.synchronize()
            return None
        times = []
        for _ in range(self.rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / self.calls)
        return statistics.median(times)

    def measure(self, functions: dict) -> dict:
        """{name: {"called_us", "replayed_us"}} of functions; {"failed": why} of those that raise, as for want of memory."""
        result = {}
        for name, function in functions.items():
            try:
                result[name] = {"called_us": self.called_us(function), "replayed_us": self.replayed_us(function)}
            except (RuntimeError, NotImplementedError, ValueError) as error:
                result[name] = {"failed": str(error).splitlines()[0]}
                if self.device == "cuda":
                    torch.cuda.empty_cache()
        return result

    @staticmethod
    def us(times: dict) -> float | None:
        """The time that bandwidths are reckoned with: of the graph, or of single calls where there is none."""
        return times.get("replayed_us") or times.get("called_us")

    def bandwidth(self) -> float:
        """Gigabytes a second, read and written, of copying within the device's memory."""
        size = (1 << 20) if self.tiny else (1 << 30)
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self.us(self.measure({"copy": lambda: target.copy_(source)})["copy"]) / 1e3

    def shares(self, times: dict, moved: dict, bandwidth: float) -> None:
        """Adds to each measured function with `moved` bytes, those that must be read or written, which share of the copy's
        bandwidth moving them in that time is."""
        for name, size in moved.items():
            us = self.us(times.get(name, {}))
            if us:
                times[name] |= {"bytes": size, "share_of_copy": size / us / 1e3 / bandwidth}
