//! What processes, and everything else on the machine, use meanwhile: from Linux's `/proc`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use eyre::{OptionExt, Result, WrapErr};

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Of a core.
    pub(crate) cpu: Duration,
    /// Bytes that it had written to disk.
    pub(crate) written: u64,
}

impl Usage {
    /// Of a process that runs.
    ///
    /// # Errors
    /// If it does not, or is somebody else's.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).wrap_err("its /proc/PID/io")?;
        Ok(Self { cpu: cpu(pid)?, written: field(&io, "write_bytes:").ok_or_eyre("no write_bytes")? })
    }
}

fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).wrap_err("a process has ended")?;
    ticks_of(&stat).map(time).ok_or_eyre("/proc/PID/stat is not understood")
}

/// Resident memory, and its highest so far, in bytes.
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name| field(&status, name).map(|kib: u64| kib * 1_024).ok_or_eyre("no memory in /proc/PID/status");
    Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// The bytes of all files below a directory.
pub(crate) fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Counts the cores that everything but some processes and this one uses.
#[derive(Debug)]
pub(crate) struct Others {
    own: Vec<u32>,
    since: Instant,
    busy: Duration,
}

impl Others {
    /// From now on. `own` are the processes that do not count.
    pub(crate) fn watch(own: &[u32]) -> Result<Self> {
        let own: Vec<u32> = own.iter().copied().chain([std::process::id()]).collect();
        Ok(Self { busy: foreign(&own)?, own, since: Instant::now() })
    }

    /// How many cores they used on average until now.
    pub(crate) fn cores(&self) -> Result<f64> {
        let busy = foreign(&self.own)?.as_secs_f64() - self.busy.as_secs_f64();
        Ok(busy / self.since.elapsed().as_secs_f64())
    }
}

/// What all cores were busy with but `own`.
fn foreign(own: &[u32]) -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").wrap_err("/proc/stat: this runs on Linux only")?;
    let all = busy_ticks(&stat).map(time).ok_or_eyre("/proc/stat is not understood")?;
    own.iter().try_fold(all, |busy, pid| Ok(busy.saturating_sub(cpu(*pid)?)))
}

/// User, nice, system, irq, softirq and steal of all cores together.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|ticks| ticks.parse().ok()).collect();
    match all.as_slice() {
        [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] => {
            Some(user + nice + system + irq + softirq + steal)
        }
        _ => None,
    }
}

/// User and system time, fields 14 and 15. The second one, a name in parentheses, may hold blanks.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let stat = "cpu  10 20 30 1000 500 1 2 3 0 0\ncpu0 5 10 15 500 250 0 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(66));
        let stat = "42 (a (odd) name) S 1 42 42 0 -1 4194560 100 0 0 0 700 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(ticks_of(stat), Some(750));
        let io = "rchar: 1\nwrite_bytes: 8192\ncancelled_write_bytes: 7\n";
        assert_eq!(field(io, "write_bytes:"), Some(8_192));
        assert_eq!(field("VmRSS:\t   1234 kB\n", "VmRSS:"), Some(1_234));
    }

    #[test]
    fn this_process_has_used_something() {
        let own = std::process::id();
        assert!(memory(own).unwrap().0 > 0);
        assert!(Usage::of(own).is_ok());
        assert!(Others::watch(&[]).is_ok());
    }
}
