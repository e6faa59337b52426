//! What all attacks share: a victim, a peer that goes on talking to it meanwhile, and what must hold in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use antiphon_sched::{Addr, millis, secs};

use crate::common::{Net, PATIENCE, TestNode};
use crate::victim::{Echo, Traits, Victim};

/// No answer may take longer. It is generous: machines that test are busy.
const ANSWER_WITHIN: Duration = secs(3);

/// An attack under way.
pub(crate) struct Siege {
    pub(crate) net: Net,
    pub(crate) victim: Victim,
    bystander: Bystander,
    /// What the victim used at the beginning.
    before: u64,
}

impl Siege {
    /// A victim that others find only by its location.
    pub(crate) fn quiet() -> Self {
        Self::of(Net { udp_port: 0, ..Net::new() }, Traits::default())
    }

    pub(crate) fn of(net: Net, traits: Traits<'_>) -> Self {
        let victim = Victim::start(&net, traits);
        let bystander = Bystander::start(&net, &victim);
        victim.reset_peak();
        let before = victim.used_bytes();
        Self { net, victim, bystander, before }
    }

    /// A peer that has not been there before gets in, and is answered.
    pub(crate) fn let_a_new_peer_in(&self) {
        let newcomer = self.net.quiet_node("newcomer", &[self.victim.location]);
        let echo: Addr<Echo> = newcomer.find("echo");
        assert_eq!(newcomer.handle.ask(echo, PATIENCE, move |reply| Echo(7, reply)), Ok(7));
    }

    /// The incarnation of the peer that goes on talking.
    pub(crate) fn bystander(&self) -> u64 {
        self.bystander.node.handle.node_id().to_bits()
    }

    /// The attack is over: memory stayed within the bound, the peer noticed nothing, a new one gets in.
    #[track_caller]
    pub(crate) fn end(self, what: &str, bound: u64) {
        self.let_a_new_peer_in();
        let grown = self.victim.peak_bytes().saturating_sub(self.before);
        let times = self.bystander.end();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let slowest = at(1.0);
        println!(
            "{what}: memory grew by {} KiB of {}; {} round trips meanwhile: p50 {:?}, p99 {:?}, slowest {slowest:?}",
            grown / 1024,
            bound / 1024,
            times.len(),
            at(0.5),
            at(0.99),
        );
        assert!(grown <= bound, "the victim grew by {grown} bytes, where the limits allow {bound}");
        assert!(slowest < ANSWER_WITHIN, "an answer took {slowest:?}");
    }
}

/// A peer on 127.0.0.1 that asks all the time.
struct Bystander {
    node: TestNode,
    is_over: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    fn start(net: &Net, victim: &Victim) -> Self {
        let node = net.quiet_node("bystander", &[victim.location]);
        let echo: Addr<Echo> = node.find("echo");
        let handle = node.handle.clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let asking = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !over.load(Ordering::SeqCst) || times.is_empty() {
                let number = times.len() as u64;
                let asked = Instant::now();
                assert_eq!(handle.ask(echo, PATIENCE, move |reply| Echo(number, reply)), Ok(number));
                times.push(asked.elapsed());
                // Often enough to see what an attack does, and no flood of its own.
                std::thread::sleep(millis(1));
            }
            times
        });
        Self { node, is_over, asking }
    }

    /// All round-trip times, the shortest first.
    fn end(self) -> Vec<Duration> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut times = self.asking.join().expect("each question was answered");
        times.sort_unstable();
        times
    }
}
