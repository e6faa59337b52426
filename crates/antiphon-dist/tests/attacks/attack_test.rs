//! The frame of every attack: a victim, a peer that sends it requests meanwhile, and the checks at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use antiphon_sched::{Addr, millis, secs};

use crate::common::{Net, PATIENCE, TestNode};
use crate::processors::Apart;
use crate::victim::{Echo, Victim, VictimOptions};

/// The limit for one reply. It is generous, because test machines are busy.
const REPLY_WITHIN: Duration = secs(3);

/// What other programs on a test machine may add to a reply.
const BUSY_MACHINE: Duration = millis(200);

/// The time after which a member that is silent has no session any more: `peer_timeout`. What waits for it is kept so long.
const LOST_AFTER: Duration = secs(15);
/// The limit for the recovery of the victim after that. It is generous, because test machines are busy.
const RECOVERED_WITHIN: Duration = secs(10);
/// What a victim may hold more than before the attack: 1,024 nodes that members have named, and 512 incarnations that have ended.
const KEPT_BYTES: u64 = 1024 * 2048 + 512 * 4096;

/// The time that this share of all round trips kept to; the shortest is first.
fn share_of(times: &[Duration], share: f64) -> Duration {
    times[((times.len() - 1) as f64 * share) as usize]
}

/// One attack on a victim. [`AttackTest::end`] makes the checks.
pub(crate) struct AttackTest {
    pub(crate) net: Net,
    pub(crate) victim: Victim,
    bystander: Bystander,
    _apart: Option<Apart>,
    /// The bytes that the victim used before the attack.
    bytes_before: u64,
    /// The bytes of them that it had allocated.
    allocated_before: u64,
    /// The bytes that it may hold more after the attack.
    kept_max: u64,
    /// The limit for one reply.
    reply_within: Duration,
    /// The round-trip time that 99 of 100 requests of the bystander kept to, before the attack.
    quiet: Option<Duration>,
}

impl AttackTest {
    /// Starts a victim without discovery.
    pub(crate) fn without_discovery() -> Self {
        Self::on(Net { udp_port: 0, ..Net::new() }, VictimOptions::default())
    }

    /// Starts a victim and the peer that sends it requests.
    pub(crate) fn on(net: Net, options: VictimOptions<'_>) -> Self {
        let mut victim = Victim::start(&net, options);
        let apart = Apart::from(victim.id());
        let bystander = Bystander::start(&net, &victim);
        victim.reset_peak();
        let (bytes_before, allocated_before) = (victim.used_bytes(), victim.allocated_bytes());
        Self {
            net,
            victim,
            bystander,
            _apart: apart,
            bytes_before,
            allocated_before,
            kept_max: KEPT_BYTES,
            reply_within: REPLY_WITHIN,
            quiet: None,
        }
    }

    /// Measures the round trips without an attack. Then [`AttackTest::end`] compares those during the attack with them, and waits
    /// until the victim has recovered.
    pub(crate) fn measure_quiet(mut self) -> Self {
        std::thread::sleep(secs(1));
        let quiet = std::mem::replace(&mut self.bystander, Bystander::start(&self.net, &self.victim));
        self.quiet = Some(share_of(&quiet.end(), 0.99));
        self
    }

    /// Allows the victim to hold more after the attack.
    pub(crate) fn which_leaves(mut self, bytes: u64) -> Self {
        self.kept_max += bytes;
        self
    }

    /// Sets another limit for one reply.
    pub(crate) fn with_replies_within(mut self, limit: Duration) -> Self {
        self.reply_within = limit;
        self
    }

    /// Checks that a new peer can connect and gets a reply.
    pub(crate) fn connect_new_peer(&self) {
        let newcomer = self.net.static_node("newcomer", &[self.victim.location]);
        let echo: Addr<Echo> = newcomer.find("echo");
        assert_eq!(newcomer.handle.ask(echo, PATIENCE, move |reply| Echo(7, reply)), Ok(7));
    }

    /// The node id of the peer that sends requests.
    pub(crate) fn bystander(&self) -> u64 {
        self.bystander.node.handle.node_id().to_bits()
    }

    /// Ends the attack. Checks that memory has stayed within the bound, that each reply to the peer was in time, and
    /// that a new peer can connect.
    #[track_caller]
    pub(crate) fn end(mut self, attack: &str, bound: u64) {
        self.connect_new_peer();
        let grown = self.victim.peak_bytes().saturating_sub(self.bytes_before);
        let times = self.bystander.end();
        let at = |share: f64| share_of(&times, share);
        let slowest = at(1.0);
        println!(
            "{attack}: memory grew by {} KiB of {}; {} round trips meanwhile: p50 {:?}, p99 {:?}, slowest {slowest:?}",
            grown / 1024,
            bound / 1024,
            times.len(),
            at(0.5),
            at(0.99),
        );
        assert!(grown <= bound, "the victim grew by {grown} bytes, and the limits allow {bound}");
        assert!(slowest < self.reply_within, "a reply took {slowest:?}");
        if let Some(quiet) = self.quiet {
            let (p99, limit) = (at(0.99), quiet * 10 + BUSY_MACHINE);
            println!("{attack}: p99 was {quiet:?} before");
            assert!(p99 <= limit, "99 of 100 replies took up to {p99:?}, and {quiet:?} before the attack");
        }
        if self.quiet.is_some() {
            Self::wait_for_recovery(&mut self.victim, attack, self.allocated_before, self.kept_max);
        }
    }

    /// Waits until the victim has no more work, and has freed what it held for attackers. They send nothing any more.
    #[track_caller]
    fn wait_for_recovery(victim: &mut Victim, attack: &str, allocated_before: u64, kept_max: u64) {
        let begun = Instant::now();
        loop {
            let (since, ran_before) = (Instant::now(), victim.cpu_time());
            std::thread::sleep(millis(200));
            let is_resting = (victim.cpu_time() - ran_before) * 20 <= since.elapsed();
            let allocated = victim.allocated_bytes();
            let is_freed = allocated <= allocated_before + kept_max;
            if is_resting && is_freed {
                let (kept, resident) = (allocated.saturating_sub(allocated_before), victim.used_bytes());
                println!(
                    "{attack}: the victim had recovered after {:?}, and kept {} KiB; {} KiB are resident",
                    begun.elapsed(),
                    kept / 1024,
                    resident / 1024
                );
                return;
            }
            assert!(
                begun.elapsed() < LOST_AFTER + RECOVERED_WITHIN,
                "the victim has not recovered: it rests: {is_resting}; {allocated} bytes are allocated, and {allocated_before} were before"
            );
        }
    }
}

/// A peer on 127.0.0.1 that sends one request after another.
struct Bystander {
    node: TestNode,
    is_over: Arc<AtomicBool>,
    requests: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    fn start(net: &Net, victim: &Victim) -> Self {
        let node = net.static_node("bystander", &[victim.location]);
        let echo: Addr<Echo> = node.find("echo");
        let handle = node.handle.clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let requests = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !over.load(Ordering::SeqCst) || times.is_empty() {
                let number = times.len() as u64;
                let sent = Instant::now();
                assert_eq!(handle.ask(echo, PATIENCE, move |reply| Echo(number, reply)), Ok(number));
                times.push(sent.elapsed());
                // Requests are frequent enough to show the effect of an attack, and are no flood themselves.
                std::thread::sleep(millis(1));
            }
            times
        });
        Self { node, is_over, requests }
    }

    /// Stops the requests. Returns all round-trip times, the shortest first.
    fn end(self) -> Vec<Duration> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut times = self.requests.join().expect("each request got its reply");
        times.sort_unstable();
        times
    }
}
