//! Token buckets: limits on how often something happens, in the time of the core.

use std::time::Duration;

use antiphon_sched::Time;

/// How often something may happen: `burst` times at once, and then once each `refill_every`.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct Rate {
    pub(in crate::node) burst: u32,
    pub(in crate::node) refill_every: Duration,
}

/// One use of a [`Rate`]. A new bucket is full.
#[derive(Copy, Clone, Debug, Default)]
pub(in crate::node) struct TokenBucket {
    /// When the bucket is full again.
    full_at: Time,
}

impl TokenBucket {
    /// Takes a token. False if there is none.
    pub(in crate::node) fn take(&mut self, now: Time, rate: Rate) -> bool {
        let full_at = self.full_at.max(now) + rate.refill_every;
        let may = full_at.since(now) <= rate.refill_every * rate.burst;
        if may {
            self.full_at = full_at;
        }
        may
    }

    /// Returns a token.
    pub(in crate::node) fn give_back(&mut self, rate: Rate) {
        self.full_at = Time::ZERO + self.full_at.since(Time::ZERO + rate.refill_every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill_every: Duration::from_secs(10) };

    #[test]
    fn bucket_refills_one_token_at_a_time() {
        let (mut bucket, start) = (TokenBucket::default(), Time::ZERO + Duration::from_secs(5));
        let taken = |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(now, RATE)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(9)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(25)), 2);
        // The half of a token that was left is not lost.
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(30)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3600)), 3);
    }

    #[test]
    fn token_given_back_can_be_taken_again() {
        let mut bucket = TokenBucket::default();
        bucket.give_back(RATE);
        let taken = |bucket: &mut TokenBucket| (0..10).filter(|_| bucket.take(Time::ZERO, RATE)).count();
        assert_eq!(taken(&mut bucket), 3, "a full bucket gets no more");
        bucket.give_back(RATE);
        assert_eq!(taken(&mut bucket), 1);
    }
}
