//! The exporter with a recorder that keeps the last values.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use antiphon_dist::{Config, Node};
use antiphon_metrics::Exporter;
use antiphon_sched::testing::TestLoop;
use antiphon_sched::{
    Addr, Cx, Event, ExitReason, Loop, LoopConfig, millis, receive, receive_within, secs, stop, suspend,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// The last values of all metrics, by their names with labels.
fn values(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let (name, labels) = key.key().clone().into_parts();
        let labels: String =
            labels.iter().map(|label| format!("{{{}={}}}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(value) => value as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(_) => panic!("no metric is a histogram"),
        };
        (format!("{}{labels}", name.as_str()), value)
    })
    .collect()
}

#[test]
fn exporter_shows_mailboxes_and_dead_letters() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let config = Config { discover_peers: false, ..Config::default() };
        let mut node = Node::new(config).expect("a node can start");
        let busy = node.spawn(|cx: &mut Cx<u32>, event| match event {
            Event::Start => {
                cx.set_name("busy");
                suspend()
            }
            Event::Resumed(_) => stop(),
            _ => receive(),
        });
        for unnamed in [false, true] {
            let to: Addr<u32> = if unnamed { node.spawn(|_: &mut Cx<u32>, _| suspend()) } else { busy };
            (0..5).for_each(|n| node.send(to, n).expect("the mailbox has room"));
        }
        node.spawn_actor(Exporter::new(millis(10)).mailbox_threshold(4));
        let seen = snapshotter.clone();
        let mut has_ended = false;
        let observer = node.spawn(move |cx: &mut Cx<()>, _| {
            // A snapshot takes the values: it shows what was exported since the last one, and 0 for all else.
            let values = values(&seen);
            let was_exported = values["antiphon_actors"] > 0.0;
            let of_busy = values["antiphon_mailbox_messages{actor=busy}"];
            if of_busy > 0.0 && !has_ended {
                assert_eq!((of_busy, values["antiphon_mailboxes_long"]), (5.0, 2.0));
                cx.resume(busy, ());
                has_ended = true;
            } else if was_exported && of_busy == 0.0 {
                assert_eq!(values["antiphon_mailboxes_long"], 1.0);
                assert_eq!(values["antiphon_dead_letters_total{reason=no_actor}"], 5.0);
                assert!(values["antiphon_steps_total"] > 5.0 && values["antiphon_loop_lag_seconds"] < 5.0);
                assert_eq!(values["antiphon_peers_online"], 0.0);
                return stop();
            }
            receive_within(millis(5))
        });
        let ended = node.serve_until(observer).expect("the node runs");
        assert!(matches!(ended, ExitReason::Done(_)), "{ended}");
    });
}

#[test]
fn lag_is_maximum_since_last_export() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut test = TestLoop::new(1);
        test.spawn_actor(Exporter::new(secs(1)));
        test.pass(millis(305));
        assert_eq!(values(&snapshotter)["antiphon_loop_lag_seconds"], 0.0);
        // The loop does not run for 120 ms, as if a step blocked it.
        let end = test.now() + millis(120);
        test.advance_to(end);
        test.pass(secs(1));
        // The timer of 20 ms was due at 320 ms, and fired at 425 ms.
        assert_eq!(values(&snapshotter)["antiphon_loop_lag_seconds"], 0.105);
        test.pass(secs(1));
        assert_eq!(values(&snapshotter)["antiphon_loop_lag_seconds"], 0.0);
    });
}

#[test]
fn busy_time_of_named_actor_is_exported() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let config = LoopConfig { actor_activity: true, ..LoopConfig::default() };
        let mut events = Loop::new(config).expect("a loop can start");
        events.spawn_actor(Exporter::new(millis(10)));
        events.spawn(move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                cx.set_name("busy");
            }
            if values(&snapshotter)
                .get("antiphon_actor_busy_seconds{actor=busy}")
                .is_some_and(|busy| *busy > 0.0)
            {
                return stop();
            }
            thread::sleep(millis(30)); // stands for work
            receive_within(Duration::ZERO)
        });
        events.run().expect("the loop runs");
    });
}
