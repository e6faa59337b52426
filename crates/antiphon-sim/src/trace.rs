//! The trace of a run as one hash: equal runs have equal hashes.

/// The FNV-1a hash of all events of a run, taken over eight bytes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    hash: u64,
    events: u64,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0 }
    }

    pub(crate) fn note(&mut self, label: &str, numbers: &[u64], bytes: &[u8]) {
        self.events += 1;
        self.add(label.as_bytes());
        for number in numbers {
            self.add(&number.to_le_bytes());
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The number of events so far.
    pub fn events(&self) -> u64 {
        self.events
    }
}
