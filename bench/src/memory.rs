//! What another process uses, as the kernel tells it: resident memory, without the kernel's own for its
//! sockets, and processor time.

use anyhow::Context;

/// `VmRSS` in KiB.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&status).with_context(|| format!("{path} tells no VmRSS"))
}

/// Processor time in milliseconds, user and kernel together, of all threads. Exact to a clock tick, 10 ms.
pub(crate) fn cpu_ms(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu(&stat).with_context(|| format!("{path} tells no processor time"))
}

fn parse_cpu(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_figure_is_found_among_the_others() {
        assert_eq!(super::parse("VmHWM:\t  9 kB\nVmRSS:\t   5364 kB\nThreads: 1\n"), Some(5364));
        assert_eq!(super::parse("Name: x\n"), None);
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 914 0 0 0 36 55 0 0 20 0 5 0 99 1 2";
        assert_eq!(super::parse_cpu(stat), Some(910));
        assert_eq!(super::parse_cpu("7 (x"), None);
    }
}
