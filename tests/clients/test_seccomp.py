"""The filter of system calls, read as the kernel reads it: also for the machine that this is not."""

import errno
import re
import struct
from pathlib import Path

import pytest

from slhf.sandbox import ALLOWED, filter_for

ALLOW, KILL = "allow", "kill"
HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FORBIDDEN = """execve execveat fork vfork clone3 socket socketpair connect bind sendto kill tkill tgkill
rt_sigqueueinfo pidfd_send_signal pidfd_open pidfd_getfd ptrace process_vm_readv process_vm_writev kcmp mount umount2
move_mount open_tree fsopen pivot_root chroot unshare setns chmod fchmod fchmodat chown fchown fchownat utimensat
setxattr truncate link linkat symlink symlinkat mknod mknodat setuid setgid setgroups capset setpriority
sched_setaffinity ioprio_set io_uring_setup bpf perf_event_open userfaultfd keyctl add_key shmget msgget semget
mq_open memfd_create setsid setpgid prctl seccomp personality reboot swapon init_module acct inotify_init1 fanotify_init
process_madvise sched_setscheduler setrlimit""".split()


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str | int:
    """What the filter does with a call: allows or kills, or the error that it returns."""
    program = filter_for(machine)
    assert program is not None
    call = struct.pack("IIQ", number, architecture or ARCHITECTURE[machine], 0)
    call += struct.pack("6Q", *arguments, *[0] * (6 - len(arguments)))
    value, place = 0, 0
    while True:
        code, then, otherwise, operand = struct.unpack_from("HBBI", program, place * 8)
        place += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("I", call, operand)
            case 0x15:
                place += then if value == operand else otherwise
            case 0x45:
                place += then if value & operand else otherwise
            case _:
                known: dict[int, str | int] = {0x7FFF0000: ALLOW, 0x80000000: KILL}
                return known.get(operand, int(operand) & 0xFFFF)


def numbers(machine: str) -> dict[str, int]:
    for path in HEADERS[machine]:
        if path.is_file():
            found = re.findall(r"^#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\b", path.read_text(), re.MULTILINE)
            calls = {name: int(number) for name, number in found}
            return calls | ({"newfstatat": calls["fstatat"]} if "fstatat" in calls else {})
    pytest.skip("no headers of the kernel here")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_reaches_out_of_a_process_is_forbidden(machine: str) -> None:
    calls = numbers(machine)
    for name in FORBIDDEN:
        if name in calls:
            assert verdict(machine, calls[name]) == (errno.ENOSYS if name == "clone3" else errno.EPERM), name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    """A machine that lacks a call has another one for it."""
    calls, column = numbers(machine), 1 + ["x86_64", "aarch64"].index(machine)
    for entry in map(str.split, ALLOWED.split(",")):
        assert entry[column] == str(calls.get(entry[0], "-"))
        assert entry[column] == "-" or verdict(machine, int(entry[column])) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide_where_a_call_can_do_both(machine: str) -> None:
    calls = numbers(machine)
    thread, process = 0x003D0F00, 17
    assert verdict(machine, calls["clone"], thread) == ALLOW
    assert verdict(machine, calls["clone"], process) == errno.EPERM
    assert verdict(machine, calls["clone"], 0x10000000 | process) == errno.EPERM
    get_flags, set_owner, set_signal = 3, 8, 10
    assert verdict(machine, calls["fcntl"], 0, get_flags) == ALLOW
    assert verdict(machine, calls["fcntl"], 0, set_owner) == errno.EPERM
    assert verdict(machine, calls["fcntl"], 0, set_signal) == errno.EPERM
    is_terminal, type_into_terminal = 0x5401, 0x5412
    assert verdict(machine, calls["ioctl"], 1, is_terminal) == ALLOW
    assert verdict(machine, calls["ioctl"], 1, type_into_terminal) == errno.EPERM
    assert verdict(machine, calls["prlimit64"], 0) == ALLOW
    assert verdict(machine, calls["prlimit64"], 1) == errno.EPERM


def test_calls_of_another_architecture_kill() -> None:
    """32-bit programs have other numbers for the same calls; x32's are beyond all that is allowed."""
    assert verdict("x86_64", 0, architecture=0x40000003) == KILL
    assert verdict("x86_64", 0x40000000) == errno.EPERM


def test_there_is_no_filter_for_a_machine_without_a_table() -> None:
    assert filter_for("riscv64") is None
