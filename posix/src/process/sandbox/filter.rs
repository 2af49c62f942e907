//! Seccomp: which system calls the process may make. Any other kills it, with SIGSYS.
//!
//! The kernel writes which call that was to its log, `audit: type=1326 ... syscall=59`.

use super::Permit;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(super) use known::restrict;

/// The filter is compiled for the processors that the compiler of filters knows.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(super) fn restrict(_: &Permit) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod known {
    use std::collections::BTreeMap;
    use std::io;

    use libc::{c_int, c_long};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };

    use super::super::Extra;
    use super::Permit;

    /// Calls that are allowed whatever their arguments.
    const ALWAYS: &[c_long] = &[
        // Connections.
        libc::SYS_accept4,
        libc::SYS_close,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_ppoll,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_shutdown,
        libc::SYS_write,
        libc::SYS_writev,
        // The standard streams of a daemon, and the pid file that cannot be removed.
        libc::SYS_dup3,
        libc::SYS_pwrite64,
        // Memory.
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        // Time, random bytes, locks.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        // Looking at files that are open.
        libc::SYS_fstat,
        libc::SYS_lseek,
        // Who the process is.
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getuid,
        // Signals and the end.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
    ];

    /// What newer processors never had.
    #[cfg(target_arch = "x86_64")]
    const ALWAYS_OLD: &[c_long] =
        &[libc::SYS_dup2, libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
    #[cfg(not(target_arch = "x86_64"))]
    const ALWAYS_OLD: &[c_long] = &[];

    /// Looking at paths, which landlock does not restrict, and opening them, which it does.
    const STAT: &[c_long] = &[libc::SYS_newfstatat, libc::SYS_statx];
    #[cfg(target_arch = "x86_64")]
    const STAT_OLD: &[c_long] = &[libc::SYS_stat, libc::SYS_lstat];
    #[cfg(not(target_arch = "x86_64"))]
    const STAT_OLD: &[c_long] = &[];

    const OPEN: &[c_long] = &[libc::SYS_openat, libc::SYS_pread64];
    #[cfg(target_arch = "x86_64")]
    const OPEN_OLD: &[c_long] = &[libc::SYS_open];
    #[cfg(not(target_arch = "x86_64"))]
    const OPEN_OLD: &[c_long] = &[];

    const REMOVE: &[c_long] = &[libc::SYS_unlinkat];
    #[cfg(target_arch = "x86_64")]
    const REMOVE_OLD: &[c_long] = &[libc::SYS_unlink];
    #[cfg(not(target_arch = "x86_64"))]
    const REMOVE_OLD: &[c_long] = &[];

    const WRITE: &[c_long] = &[
        libc::SYS_fallocate,
        libc::SYS_fchmod,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fsync,
        libc::SYS_ftruncate,
        libc::SYS_pwritev,
        libc::SYS_renameat2,
        libc::SYS_sync_file_range,
    ];
    #[cfg(target_arch = "x86_64")]
    const WRITE_OLD: &[c_long] = &[libc::SYS_rename, libc::SYS_renameat];
    #[cfg(target_arch = "aarch64")]
    const WRITE_OLD: &[c_long] = &[libc::SYS_renameat];
    #[cfg(target_arch = "riscv64")]
    const WRITE_OLD: &[c_long] = &[];

    /// Commands of `fcntl`. Debug builds look at descriptors that they close.
    const FCNTL: &[c_int] =
        &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    const FCNTL_LOCK: &[c_int] = &[libc::F_OFD_SETLK];
    const FCNTL_SEAL: &[c_int] = &[libc::F_ADD_SEALS, libc::F_GET_SEALS];

    /// Options that new connections get.
    const SETSOCKOPT: &[(c_int, c_int)] = &[
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    ];

    /// Flags of `clone` with which the child would share memory, or get namespaces of its own.
    const SHARING: c_int = libc::CLONE_VM
        | libc::CLONE_FILES
        | libc::CLONE_THREAD
        | libc::CLONE_PTRACE
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;

    /// Allows this thread the calls of the loop and those of `permit`, for good.
    pub(in super::super) fn restrict(permit: &Permit) -> io::Result<()> {
        // Read once, on first use, by a call that is not allowed.
        let _ = rustix::param::page_size();
        // Fails for rules that contradict themselves.
        let program = compile(permit).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        seccompiler::apply_filter(&program).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
            _ => io::ErrorKind::InvalidData.into(),
        })
    }

    fn compile(permit: &Permit) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(
            rules(permit)?,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }

    type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

    /// The calls and conditions on their arguments; without a condition a call is always allowed.
    fn rules(permit: &Permit) -> Result<Rules, BackendError> {
        let mut rules = Rules::new();
        let mut always = |calls: &[c_long]| rules.extend(calls.iter().map(|&call| (call, vec![])));
        always(ALWAYS);
        always(ALWAYS_OLD);
        let opens = !permit.read.is_empty() || !permit.devices.is_empty();
        let writes = !permit.write.is_empty();
        if opens || writes {
            [STAT, STAT_OLD, OPEN, OPEN_OLD].into_iter().for_each(&mut always);
        }
        if writes || !permit.remove.is_empty() {
            [STAT, STAT_OLD, REMOVE, REMOVE_OLD].into_iter().for_each(&mut always);
        }
        if writes {
            [WRITE, WRITE_OLD].into_iter().for_each(&mut always);
        }
        if permit.unix || permit.ipv4 || permit.ipv6 {
            always(&[libc::SYS_connect]);
        }
        if permit.extras.contains(&Extra::MemoryFiles) {
            always(&[libc::SYS_memfd_create, libc::SYS_ftruncate]);
        }
        if permit.extras.contains(&Extra::Fork) {
            always(&[libc::SYS_set_robust_list, libc::SYS_wait4, libc::SYS_waitid]);
            #[cfg(target_arch = "x86_64")]
            always(&[libc::SYS_fork]);
            rules.insert(libc::SYS_clone, vec![rule(&[without(0, SHARING)?])?]);
        }
        restrict_arguments(&mut rules, permit)?;
        Ok(rules)
    }

    fn restrict_arguments(rules: &mut Rules, permit: &Permit) -> Result<(), BackendError> {
        let one = |condition| rule(&[condition]);
        rules.insert(libc::SYS_mmap, vec![one(without(2, libc::PROT_EXEC)?)?]);
        rules.insert(libc::SYS_mprotect, vec![one(without(2, libc::PROT_EXEC)?)?]);
        // Ending itself with a signal, as an abort does.
        let own = one(is(0, rustix::process::getpid().as_raw_nonzero().get())?)?;
        rules.insert(libc::SYS_tgkill, vec![own]);
        // A spare descriptor is a UNIX socket.
        let families =
            [(true, libc::AF_UNIX), (permit.ipv4, libc::AF_INET), (permit.ipv6, libc::AF_INET6)];
        let families = families.into_iter().filter(|(allowed, _)| *allowed);
        let sockets = families.map(|(_, family)| one(is(0, family)?));
        rules.insert(libc::SYS_socket, sockets.collect::<Result<_, _>>()?);
        let mut commands = vec![FCNTL];
        if !permit.write.is_empty() {
            commands.push(FCNTL_LOCK);
        }
        if permit.extras.contains(&Extra::MemoryFiles) {
            commands.push(FCNTL_SEAL);
        }
        let commands = commands.concat().into_iter().map(|command| one(is(1, command)?));
        rules.insert(libc::SYS_fcntl, commands.collect::<Result<_, _>>()?);
        let options =
            SETSOCKOPT.iter().map(|&(level, option)| rule(&[is(1, level)?, is(2, option)?]));
        rules.insert(libc::SYS_setsockopt, options.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Allows a call if all `conditions` hold.
    fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(conditions.to_vec())
    }

    /// The argument numbered `argument` is `value`.
    fn is(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
        let value = value.cast_unsigned().into();
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    }

    /// The argument numbered `argument` has none of the bits of `mask`.
    fn without(argument: u8, mask: c_int) -> Result<SeccompCondition, BackendError> {
        let mask = u64::from(mask.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), 0)
    }
}
