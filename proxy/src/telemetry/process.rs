//! What the kernel says about this process, under the names every Prometheus client library uses.

use std::fs;

/// A reading; a field is absent where /proc could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) max_files: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) start_seconds: Option<f64>,
}

/// Reads /proc/self.
pub(crate) fn read() -> Process {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut process = parse(
        &stat,
        &fs::read_to_string("/proc/stat").unwrap_or_default(),
        rustix::param::clock_ticks_per_second(),
        rustix::param::page_size() as u64,
    );
    process.open_files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    process.max_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    process
}

/// `stat` is /proc/self/stat (proc_pid_stat(5)), `system` is /proc/stat.
#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn parse(stat: &str, system: &str, ticks: u64, page: u64) -> Process {
    // The program's name stands in parentheses and may hold anything: fields count from behind it.
    let Some((_, rest)) = stat.rsplit_once(')') else { return Process::default() };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    let seconds = |count: u64| count as f64 / ticks as f64;
    Process {
        cpu_seconds: number(14).zip(number(15)).map(|(user, kernel)| seconds(user + kernel)),
        threads: number(20),
        start_seconds: number(22).zip(boot).map(|(start, boot)| boot as f64 + seconds(start)),
        virtual_bytes: number(23),
        resident_bytes: number(24).map(|pages| pages * page),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_hostile_name() {
        let stat = "42 (a) b 9) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1000 8192 25 18446744073709551615";
        let process = parse(stat, "cpu 1\nbtime 1700000000\n", 100, 4096);
        assert_eq!(process.cpu_seconds, Some(2.0));
        assert_eq!(process.threads, Some(3));
        assert_eq!(process.start_seconds, Some(1_700_000_010.0));
        assert_eq!(process.virtual_bytes, Some(8192));
        assert_eq!(process.resident_bytes, Some(102_400));
    }

    #[test]
    fn this_process_can_be_read() {
        let process = read();
        assert!(process.resident_bytes.unwrap() > 0);
        assert!(process.open_files.unwrap() > 0);
    }
}
