//! The resident memory of a process, as the kernel tells it. Kernel memory (socket buffers) is not in it.

use anyhow::Context;

/// `VmRSS` in KiB.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&status).with_context(|| format!("{path} tells no VmRSS"))
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
    }
}
