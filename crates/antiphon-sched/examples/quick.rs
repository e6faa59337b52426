//! quick ping pong
use antiphon_sched::*;
use std::time::Instant;
fn main() {
    for _ in 0..3 {
        let mut l = Loop::new(LoopConfig::default()).unwrap();
        let n = 10_000_000u64;
        let pong = l.spawn(move |cx: &mut Cx<(u64, Addr<u64>)>, event| match event {
            Event::Message((n, from)) => { cx.send(from, n + 1)?; receive() }
            Event::Start => { cx.set_daemon(true); receive() }
            _ => receive(),
        });
        let t = Instant::now();
        l.spawn(move |cx: &mut Cx<u64>, event| match event {
            Event::Start => { let me = cx.me(); cx.send(pong, (0, me))?; receive() }
            Event::Message(x) if x < n => { let me = cx.me(); cx.send(pong, (x, me))?; receive() }
            _ => stop(),
        });
        l.run().unwrap();
        let d = t.elapsed();
        println!("ping-pong {:.1} ns/rt {:.1}M rt/s", d.as_nanos() as f64 / n as f64, n as f64 / d.as_secs_f64() / 1e6);
        drop(l);
        let mut l = Loop::new(LoopConfig::default()).unwrap();
        let t = Instant::now();
        let me = l.spawn(move |_: &mut Cx<u64>, event| match event { Event::Message(0) => stop(), _ => receive() });
        let n = 10_000_000u64; let mut left = n;
        l.spawn(move |cx: &mut Cx<()>, event| { match event { Event::Start | Event::Message(()) => {
            for _ in 0..1000 { cx.send(me, left)?; left -= 1; }
            if left == 0 { cx.send(me, 0)?; return stop(); }
            let m = cx.me(); cx.send(m, ())?; } _ => {} } receive() });
        l.run().unwrap();
        let d = t.elapsed();
        println!("count {:.1} ns", d.as_nanos() as f64 / n as f64);
    }
}
