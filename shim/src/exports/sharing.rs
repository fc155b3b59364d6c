//! The ways to make a child that runs in this memory: vfork, and clone with CLONE_VM. They are noted (see `crate::stranger`), and
//! otherwise are libc's. No function can stand before vfork, for the child would return from it and destroy its frame: what stands
//! here is the system call itself, as in libc, with the return address in a register meanwhile.

use std::ffi::c_int;

use crate::outcome;
use crate::real::CLONE;
use crate::stranger::SHARING;

extern "C" fn tandem_vfork_failed(result: c_int) -> c_int {
    outcome::set_errno(-result);
    -1
}

#[cfg(target_arch = "x86_64")]
macro_rules! vfork {
    ($symbol:ident) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                ".cfi_register rip, rdi",
                "lock inc dword ptr [rip + {sharing}]",
                "mov eax, {number}",
                "syscall",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rip, 0",
                "test eax, eax",
                "jz 2f",
                // The child has gone, or there was none.
                "lock dec dword ptr [rip + {sharing}]",
                "cmp eax, -4095",
                "jae 3f",
                "ret",
                // The child: without `ret`, which would take the parent's entry off a shadow stack that both have.
                "2:",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                ".cfi_register rip, rdi",
                "jmp rdi",
                "3:",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rip, 0",
                "mov edi, eax",
                "jmp {failed}",
                ".cfi_endproc",
                number = const libc::SYS_vfork,
                sharing = sym SHARING,
                failed = sym tandem_vfork_failed,
            );
        }
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! vfork {
    ($symbol:ident) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "adrp x9, {sharing}",
                "add x9, x9, :lo12:{sharing}",
                "2:",
                "ldaxr w10, [x9]",
                "add w10, w10, #1",
                "stlxr w11, w10, [x9]",
                "cbnz w11, 2b",
                // CLONE_VM, CLONE_VFORK, SIGCHLD; the stack stays.
                "mov x0, #0x4111",
                "mov x1, #0",
                "mov x8, {number}",
                "svc #0",
                "cbz x0, 4f",
                "3:",
                "ldaxr w10, [x9]",
                "sub w10, w10, #1",
                "stlxr w11, w10, [x9]",
                "cbnz w11, 3b",
                "cmn x0, #4095",
                "b.cs {failed}",
                "4:",
                "ret",
                ".cfi_endproc",
                number = const libc::SYS_clone,
                sharing = sym SHARING,
                failed = sym tandem_vfork_failed,
            );
        }
    };
}

vfork!(vfork);
vfork!(__vfork);

/// A thread is none, and what has its own memory finds out by that. Of any other child nobody hears when it ends: from then on this process
/// asks the kernel each time.
#[cfg(target_arch = "x86_64")]
macro_rules! clone {
    ($symbol:ident) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
            std::arch::naked_asm!(
                "test edx, {thread}",
                "jnz 2f",
                "test edx, {memory}",
                "jz 2f",
                "lock or dword ptr [rip + {sharing}], {ever}",
                "2:",
                "jmp [rip + {pointer}]",
                thread = const libc::CLONE_THREAD,
                memory = const libc::CLONE_VM,
                ever = const crate::stranger::EVER,
                sharing = sym SHARING,
                pointer = sym CLONE,
            );
        }
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! clone {
    ($symbol:ident) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
            std::arch::naked_asm!(
                "tbnz w2, #16, 3f",
                "tbz w2, #8, 3f",
                "adrp x9, {sharing}",
                "add x9, x9, :lo12:{sharing}",
                "2:",
                "ldaxr w10, [x9]",
                "orr w10, w10, {ever}",
                "stlxr w11, w10, [x9]",
                "cbnz w11, 2b",
                "3:",
                "adrp x16, {pointer}",
                "ldr x16, [x16, :lo12:{pointer}]",
                "br x16",
                ever = const crate::stranger::EVER,
                sharing = sym SHARING,
                pointer = sym CLONE,
            );
        }
    };
}

clone!(clone);
clone!(__clone);

/// Where `clone` jumps before start-up has run: finds the symbol, with every argument where it was.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub unsafe extern "C" fn resolve_clone() {
    std::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "call {resolve}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp [rip + {pointer}]",
        resolve = sym crate::real::resolve_clone,
        pointer = sym CLONE,
    );
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub unsafe extern "C" fn resolve_clone() {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, #-80]!",
        "stp x0, x1, [sp, #16]",
        "stp x2, x3, [sp, #32]",
        "stp x4, x5, [sp, #48]",
        "stp x6, x7, [sp, #64]",
        "bl {resolve}",
        "ldp x0, x1, [sp, #16]",
        "ldp x2, x3, [sp, #32]",
        "ldp x4, x5, [sp, #48]",
        "ldp x6, x7, [sp, #64]",
        "ldp x29, x30, [sp], #80",
        "adrp x16, {pointer}",
        "ldr x16, [x16, :lo12:{pointer}]",
        "br x16",
        resolve = sym crate::real::resolve_clone,
        pointer = sym CLONE,
    );
}
