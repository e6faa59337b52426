//! A file transfer between two processes on loopback, and its effect on messages that are sent meanwhile.
//!
//! Contestants: ours, which hashes and seals the file and can resume; and a hand-written copy of the bytes over one TCP
//! connection. Both end with the file on disk, by fsync. After the measurement, a run compares the hashes of both files.

mod ours;
mod raw;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::group::{Better, Group, Metric, Workload};

/// The environment variable that passes the file size, in MiB, to the processes of one measurement.
pub(crate) const MIB: &str = "ANTIPHON_BENCH_MIB";

const fn micros(row: &'static str) -> Metric {
    Metric { row, unit: "us", better: Better::Less }
}

/// All workloads with files.
pub(crate) const GROUP: Group = Group {
    name: "files",
    workloads: &[
        Workload {
            name: "file",
            metrics: &[Metric { row: "file", unit: "MiB/s", better: Better::More }],
            contestants: &[("ours", ours::transfer), ("raw-copy", raw::transfer)],
        },
        Workload {
            name: "beside",
            metrics: &[micros("64 B p50 beside"), micros("64 B p99 beside")],
            contestants: &[("ours", ours::round_trips_beside), ("no-file", ours::round_trips_alone)],
        },
    ],
};

fn file_bytes() -> u64 {
    let mib: u64 = std::env::var(MIB).ok().and_then(|mib| mib.parse().ok()).unwrap_or(1024);
    mib << 20
}

/// The folder of the partner that listens at `at`.
fn folder_of(at: SocketAddr) -> PathBuf {
    std::env::temp_dir().join(format!("antiphon-bench-{}", at.port()))
}

/// A file on disk, and the folder that receives it; both are removed on drop.
struct Files {
    source: tempfile::TempDir,
    received: PathBuf,
}

impl Files {
    fn new(at: SocketAddr) -> Self {
        let source = tempfile::tempdir().expect("a temporary folder can be made");
        let files = Self { source, received: folder_of(at) };
        let mut file = File::create(files.source()).expect("the folder is writable");
        let mut left = file_bytes();
        let mut block = vec![0; 1 << 20];
        while left > 0 {
            // No two blocks are equal.
            blake3::Hasher::new().update(&left.to_le_bytes()).finalize_xof().fill(&mut block);
            let count = left.min(block.len() as u64);
            file.write_all(&block[..count as usize]).expect("the disk has space");
            left -= count;
        }
        file.sync_all().expect("the disk has space");
        files
    }

    fn source(&self) -> PathBuf {
        self.source.path().join("file")
    }

    fn mib_a_second(&self, seconds: f64) -> Vec<f64> {
        assert!(hash(&self.source()) == hash(&self.received.join("file")), "the received file differs");
        vec![file_bytes() as f64 / f64::from(1 << 20) / seconds]
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.received) {
            eprintln!("{} was not removed: {error}", self.received.display());
        }
    }
}

fn hash(path: &Path) -> blake3::Hash {
    let mut file = File::open(path).expect("the file exists");
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).expect("the file can be read") {
            0 => return hasher.finalize(),
            count => hasher.update(&block[..count]),
        };
    }
}
