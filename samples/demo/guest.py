#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# The demo's story, told in the VM: load the module, start the daemon, mount an
# image that is not here, run a program from it three times, check every file.
#
# Lives here: the steps, what is measured and what must hold.  Never here:
# building anything, or booting; scripts/demo does that.
#
#   guest.py IMAGE DAEMON CACHE_DISK        (root, in the test VM)
"""The guest's side of the demo."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

HOME = pathlib.Path("/run/demo")
CACHE, MOUNT, STATS, LOG = (HOME / n for n in ("cache", "image", "stats.json", "daemon.log"))
FSID, DEVICE = "rootfs.meta", "rootfs.data"
MIB = 1 << 20
TERMINAL = os.environ.get("DEMO_TERMINAL") == "1"


class Failed(Exception):
    """Something that must hold does not; the text is a sentence."""


def bold(text):
    return f"\033[1m{text}\033[0m" if TERMINAL else text


def say(text):
    print(f"{bold('==>')} {text}", flush=True)


def note(text):
    print(f"    {text}", flush=True)


def must(condition, sentence):
    if not condition:
        raise Failed(sentence)


def run(*command):
    """Runs a command that has to work."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    what = (done.stderr or done.stdout).strip()
    must(done.returncode == 0, f"`{' '.join(map(str, command))}` failed: {what}")


class Progress:
    """Says how far something has come: on a terminal in place, else now and then."""

    def __init__(self, label, total):
        self.label, self.total, self.done, self.shown = label, total, 0, 0
        self.started, self.lock = time.monotonic(), threading.Lock()

    def step(self):
        """One more is done."""
        with self.lock:
            self.done += 1
            steps = 100 if TERMINAL else 4
            if self.done * steps // self.total == self.shown:
                return
            self.shown = self.done * steps // self.total
            text = (f"    {self.label} {self.done} of {self.total}, "
                    f"{time.monotonic() - self.started:.0f} s")
            last = self.done == self.total
            print(f"\r{text}" if TERMINAL else text, flush=True,
                  end="" if TERMINAL and not last else "\n")


class Daemon:
    """A running ondemandd."""

    def __init__(self, program, blobs):
        ready, theirs = os.pipe()
        with LOG.open("w", encoding="utf-8") as log:
            # pylint: disable-next=consider-using-with
            self.process = subprocess.Popen(
                [program, "--dir", CACHE, "--blobs", blobs, "--tag", "demo",
                 "--stats", STATS, "--ready-fd", str(theirs)],
                pass_fds=[theirs], stderr=log)
        os.close(theirs)
        with open(ready, encoding="ascii") as line:
            must(line.readline() == "ready\n", "the daemon did not get ready")
        self.reported = -1

    def counters(self):
        """The daemon's own counters, fresh."""
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            must(self.process.poll() is None, "the daemon has ended")
            with contextlib.suppress(FileNotFoundError):
                found = json.loads(STATS.read_text(encoding="ascii"))
                if found["report"] > self.reported:
                    self.reported = found["report"]
                    must(found["errors"] == 0, f"the daemon counts {found['errors']} errors")
                    return found
            time.sleep(0.01)
        raise Failed("the daemon does not report its counters")

    def stop(self):
        """A clean stop; the last counters."""
        self.process.terminate()
        must(self.process.wait(20) == 0, "the daemon did not stop cleanly")
        found = json.loads(STATS.read_text(encoding="ascii"))
        must(found["last"] and found["objects"] == 0 and found["closes"] == found["opens"],
             f"the daemon was left with open objects: {found}")
        return found


def mount_image():
    run("mount", "-t", "erofs", "-o", f"fsid={FSID},device={DEVICE}", "none", MOUNT)


def drop_page_cache():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def tour(show):
    """Runs the program in the image; the seconds to its first output."""
    started = time.monotonic()
    with subprocess.Popen(["chroot", MOUNT, "/usr/local/bin/tour"],
                          stdout=subprocess.PIPE, text=True) as program:
        first = None
        for line in program.stdout:
            first = first or time.monotonic() - started
            if show:
                note(f"│ {line.rstrip()}")
    must(program.returncode == 0 and first is not None, "the program in the image failed")
    return first


def check(sums, progress):
    """Runs one sha256sum over some files of the image; what it finds wrong."""
    with subprocess.Popen(["sha256sum", "--check", "--strict", "-"], cwd=MOUNT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        threading.Thread(target=lambda: (program.stdin.writelines(sums), program.stdin.close())).start()
        wrong = []
        for line in program.stdout:
            progress.step()
            if not line.endswith(": OK\n"):
                wrong.append(line.rstrip())
    if program.returncode != 0 and not wrong:
        wrong = [f"sha256sum ended with status {program.returncode}"]
    return wrong


def compare(listing, files):
    """Compares the mounted image with its source: what is there, and every byte of it."""
    here = pathlib.Path(sys.path[0])
    done = subprocess.run([here / "listing", MOUNT], capture_output=True, check=False)
    must(done.returncode == 0, "the image cannot be listed")
    found, wanted = (set(b.splitlines()) for b in (done.stdout, listing.read_bytes()))
    must(found == wanted, f"the image's tree is not the source's: {sorted(found ^ wanted)[:4]}")

    progress = Progress("checked", len(files))
    half = len(files) // 2
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda sums: check(sums, progress), (files[:half], files[half:]))
        wrong = [line for lines in halves for line in lines]
    must(not wrong, f"{len(wrong)} files differ, the first: {wrong[:1]}")
    must(progress.done == len(files), f"only {progress.done} of {len(files)} files were checked")


def cached_bytes():
    """What the cache's files hold, asked of the file system and of nobody else."""
    total = 0
    for path in (CACHE / "cache").rglob("D*"):
        with path.open("rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            while at < size:
                try:
                    start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                total += at - start
    return total


def table(rows, size):
    """The figures."""
    head = ("", "READ requests", "fetched", "share of image", "first output after")
    body = [(label, str(reads), f"{fetched / MIB:.1f} MiB", f"{100 * fetched / size:.1f} %",
             f"{first:.1f} s") for label, reads, fetched, first in rows]
    widths = [max(map(len, column)) for column in zip(head, *body)]
    for i, row in enumerate([head, *body]):
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        note(bold("  ".join(cells)) if i == 0 else "  ".join(cells))


def story(image, program, disk):
    """All of it."""
    module = os.environ["CACHEFILES_MODULE"]
    whose = "the kernel's own C module" if os.environ.get("CACHEFILES_PEER") else "our Rust module"
    files = (image / "sha256sums").read_text(encoding="utf-8").splitlines(keepends=True)
    sizes = [(image / "blobs" / name).stat().st_size for name in (FSID, DEVICE)]
    size = sum(sizes)

    say(f"Loading {whose}, on Linux {os.uname().release}")
    run("modprobe", "netfs")
    run("insmod", module)
    run("modprobe", "erofs")

    say("Starting the daemon, with an empty cache")
    CACHE.mkdir(parents=True)
    MOUNT.mkdir()
    run("mount", "-t", "ext4", disk, CACHE)
    daemon = Daemon(program, image / "blobs")
    start = daemon.counters()
    must(start["reads"] == 0 and cached_bytes() == 0, "the cache is not empty")

    say(f"Mounting an image of {size / MIB:.1f} MiB ({len(files)} files) that is not here yet: "
        f"{sizes[0] / MIB:.1f} MiB of metadata, {sizes[1] / MIB:.1f} MiB of data")
    mount_image()
    # The data blob is looked up beside the mount, and may be opened after it.
    deadline = time.monotonic() + 10
    while (mounted := daemon.counters())["opens"] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    must(mounted["opens"] == 2, f"{mounted['opens']} cookies were opened, not 2")
    note(f"mounted; fetched for it: {mounted['read_bytes'] // 1024} KiB")

    rows = []

    def measure(label, show=False):
        nonlocal start
        first = tour(show)
        now = daemon.counters()
        rows.append((label, now["reads"] - start["reads"],
                     now["read_bytes"] - start["read_bytes"], first))
        start = now
        return rows[-1]

    say("Running a program from it")
    _, reads, fetched, _ = measure("first start, with the mount", show=True)
    must(reads > 0 and 0 < fetched < size, "the first start fetched nothing, or everything")

    say("Running it again, with nothing in memory: all must come from the cache")
    drop_page_cache()
    measure("second start")

    say("Unmounting, mounting and running it once more")
    run("umount", MOUNT)
    on_disk = cached_bytes()
    must(on_disk == start["read_bytes"],
         f"the cache holds {on_disk} bytes, but the daemon counts {start['read_bytes']}")
    drop_page_cache()
    mount_image()
    measure("after unmount and mount")
    for label, reads, fetched, _ in rows[1:]:
        must(reads == 0 and fetched == 0, f"{label}: {reads} requests, {fetched} bytes, not 0")

    print()
    table(rows, size)
    note(f"Image {size / MIB:.1f} MiB; the cache's files hold the same {on_disk} bytes that the "
         "daemon counts.")
    print(flush=True)

    say("Comparing every file with the source; this fetches the rest")
    began = time.monotonic()
    compare(image / "listing", files)
    now = daemon.counters()
    note(f"all {len(files)} files are the same, in {time.monotonic() - began:.0f} s; "
         f"{now['reads'] - start['reads']} READ requests brought "
         f"{(now['read_bytes'] - start['read_bytes']) / MIB:.1f} MiB")

    say("Unmounting, stopping the daemon, unloading the module")
    run("umount", MOUNT)
    last = daemon.stop()
    latency = last["read_latency"]
    note(f"the daemon answered {last['reads']} READs without an error; half of them within "
         f"{latency['p50_us'] / 1000:.1f} ms, 99 of 100 within {latency['p99_us'] / 1000:.1f} ms")
    run("umount", CACHE)
    run("rmmod", "erofs")
    run("rmmod", "cachefiles")
    run("rmmod", "netfs")


def main():
    image, program, disk = sys.argv[1:]
    try:
        story(pathlib.Path(image), program, disk)
    except Failed as failure:
        if LOG.exists():
            print("The daemon's log:", LOG.read_text(encoding="utf-8"), sep="\n", file=sys.stderr)
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
