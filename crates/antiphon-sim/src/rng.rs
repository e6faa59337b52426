//! Random numbers from a seed (`SplitMix64`), so that a run depends on nothing but its seed.

use std::time::Duration;

use antiphon_wire::Entropy;

/// A stream of random numbers. (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.)
#[derive(Debug, Clone)]
pub struct SimRng {
    state: u64,
}

impl SimRng {
    /// The stream of random numbers of this seed.
    pub fn new(seed: u64) -> SimRng {
        SimRng { state: seed }
    }

    /// A random number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A random number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.number() % bound }
    }

    /// True in one of `times` calls on average; never if `times` is 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// A random duration up to and including `longest`.
    pub fn span(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    /// 32 random bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes());
        }
        bytes
    }

    /// The randomness of one handshake, without X25519: both sides agree on the sum of their public halves. It needs no
    /// secrecy in a simulation.
    pub(crate) fn entropy(&mut self) -> Entropy {
        let public = self.bytes();
        Entropy::new(self.bytes(), public, move |peer| {
            let mut shared = public;
            shared.iter_mut().zip(peer).for_each(|(shared, peer)| *shared = shared.wrapping_add(*peer));
            Some(shared)
        })
    }
}
