//! Memory nodes. All threads read all weights, so on a machine with several nodes a region's pages
//! alternate between those whose processors this process may use: none of their memories is left
//! idle, and none is the one that all wait for.

use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Nodes that a mask has room for: as many as Linux knows at most.
const MAX_NODES: usize = 1024;
const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// Spreads a range's pages, none of which has been touched, over this process's nodes. Where it
/// can't be done, as in a container that forbids it, only speed is lost.
pub(super) fn interleave(start: NonNull<u8>, len: usize) {
    static NODES: OnceLock<Vec<usize>> = OnceLock::new();
    let nodes = NODES.get_or_init(nodes_of_this_process);
    if nodes.len() > 1 {
        // SAFETY: the caller gives its own range; where pages are put changes no content.
        let _ = unsafe { interleave_over(start, len, nodes) };
    }
}

fn nodes_of_this_process() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    nodes(&status, |node| {
        std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()
    })
}

/// The nodes that a process may use by its status in `/proc`, and whose processors too; `cpulist`
/// tells a node's.
fn nodes(status: &str, cpulist: impl Fn(usize) -> Option<String>) -> Vec<usize> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        parse_list(line.unwrap_or_default())
    };
    let cpus = field("Cpus_allowed_list:");
    let mut nodes = field("Mems_allowed_list:");
    nodes.retain(|&node| {
        let of_node = parse_list(&cpulist(node).unwrap_or_default());
        node < MAX_NODES && of_node.iter().any(|cpu| cpus.binary_search(cpu).is_ok())
    });
    nodes
}

/// Numbers as the kernel lists them in order, such as `0-3,8`; empty where it is no such list.
fn parse_list(list: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (last < 1 << 20).then_some(first..=last)
    };
    let ranges: Option<Vec<_>> = list.trim().split(',').map(range).collect();
    ranges.unwrap_or_default().into_iter().flatten().collect()
}

/// # Safety
/// The range must be the caller's.
unsafe fn interleave_over(start: NonNull<u8>, len: usize, nodes: &[usize]) -> io::Result<()> {
    let mut mask: [libc::c_ulong; MAX_NODES / WORD_BITS] = [0; _];
    for node in nodes {
        mask[node / WORD_BITS] |= 1 << (node % WORD_BITS);
    }
    // The system reads one bit less than it is told.
    // SAFETY: the mask is as long as said; the range is the caller's.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start.as_ptr(),
            len,
            libc::MPOL_INTERLEAVE as usize,
            mask.as_ptr(),
            MAX_NODES + 1,
            0_usize,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for the policy of an address.
    const MPOL_F_ADDR: usize = 1 << 1;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("\t0"), [0]);
        for bad in ["", "x", "1-", "3-y", "0-99999999999"] {
            assert!(parse_list(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn nodes_without_a_processor_for_us_are_left_alone() {
        let status = "Name:\tx\nCpus_allowed_list:\t2-5\nMems_allowed_list:\t0-2\n";
        let cpulist = |node| ["0-3\n", "4-7\n", "\n", "8-9\n"].get(node).map(ToString::to_string);

        assert_eq!(nodes(status, cpulist), [0, 1]);
        assert_eq!(nodes("Cpus_allowed_list:\t0\nMems_allowed_list:\t0-1\n", cpulist), [0]);
        assert!(nodes("", cpulist).is_empty());
        assert!(nodes(status, |_| None).is_empty());
    }

    #[test]
    fn a_range_that_is_interleaved_says_so() {
        let len = 4 << 20;
        let region = super::super::memory::Region::new(len).unwrap();
        let start = NonNull::new(region.as_mut_ptr()).unwrap();
        // SAFETY: the region is ours.
        if let Err(error) = unsafe { interleave_over(start, len, &[0]) } {
            println!("skipped: this system does not let memory be placed: {error}");
            return;
        }

        let (mut policy, mut mask) = (-1_i32, [0 as libc::c_ulong; MAX_NODES / WORD_BITS]);
        // SAFETY: both results have the room that the system is told of.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy,
                mask.as_mut_ptr(),
                MAX_NODES,
                start.as_ptr(),
                MPOL_F_ADDR,
            )
        };
        assert_eq!((outcome, policy, mask[0]), (0, libc::MPOL_INTERLEAVE, 1));
        // SAFETY: no other reader or writer.
        unsafe { start.as_ptr().add(len - 1).write(7) };
        // SAFETY: as above.
        assert_eq!(unsafe { region.slice(len - 2, 2) }, [0, 7]);
    }
}
