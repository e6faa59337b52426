//! Actors that own readiness sources: pipes and sockets on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use antiphon_sched::*;
use mio::Interest;
use mio::net::{TcpListener, TcpStream, UnixStream};

use crate::common::*;

fn pair() -> (std::os::unix::net::UnixStream, UnixStream) {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (near, UnixStream::from_std(far))
}

/// Runs the loop until a condition holds.
fn until(events: &mut Loop, condition: &str, mut holds: impl FnMut(&Loop) -> bool) {
    let begun = std::time::Instant::now();
    while !holds(events) {
        assert!(begun.elapsed() < secs(20), "{condition} was not reached");
        let deadline = events.now() + millis(100);
        events.run_once(Some(deadline)).unwrap();
    }
}

#[test]
fn tcp_echo_between_actors() {
    let mut events = real_loop();
    let log = Log::default();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let mut listener = TcpListener::bind(at).unwrap();
    let at = listener.local_addr().unwrap();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => drop(cx.register_source(&mut listener, Interest::READABLE)?),
            Event::Ready(_) => {
                let (stream, _) = listener.accept()?;
                cx.spawn_actor(echo(stream));
                return stop();
            }
            _ => {}
        }
        receive()
    });
    let seen = log.clone();
    let mut stream = TcpStream::connect(at).unwrap();
    let mut received = Vec::new();
    events.spawn(move |cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.register_source(&mut stream, Interest::READABLE | Interest::WRITABLE)?;
            receive()
        }
        Event::Ready(ready) => {
            if ready.writable && received.is_empty() {
                stream.write_all(b"hello")?;
            }
            let mut bytes = [0; 64];
            if let Ok(n) = stream.read(&mut bytes) {
                received.extend_from_slice(&bytes[..n]);
            }
            if received == b"hello" {
                seen.note("echoed");
                return stop();
            }
            receive()
        }
        _ => receive(),
    });
    events.run().unwrap();
    assert_eq!(log.take(), "echoed");
    assert_eq!(events.stats().sources, 0);
}

fn echo(mut stream: TcpStream) -> impl Actor<()> {
    actor(move |cx, event| match event {
        Event::Start => {
            cx.register_source(&mut stream, Interest::READABLE)?;
            receive()
        }
        Event::Ready(_) => {
            let mut bytes = [0; 64];
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => return stop(),
                    Ok(n) => stream.write_all(&bytes[..n])?,
                    Err(reason) if reason.kind() == ErrorKind::WouldBlock => return receive(),
                    Err(reason) => Err(reason)?,
                }
            }
        }
        _ => receive(),
    })
}

#[test]
fn unfinished_source_is_ready_again_without_bytes() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let (mut near, mut far) = pair();
    near.write_all(b"abc").unwrap();
    events.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => drop(cx.register_source(&mut far, Interest::READABLE)?),
            Event::Ready(ready) => {
                assert!(ready.readable, "the readiness was lost");
                let mut byte = [0];
                far.read_exact(&mut byte)?;
                seen.note(byte[0] as char);
                if byte == *b"c" {
                    return stop();
                }
                cx.unfinished(ready.source);
            }
            _ => {}
        }
        receive()
    });
    events.run().unwrap();
    assert_eq!(log.take(), "a b c");
}

#[test]
fn readiness_repeated_merges_into_waiting_event() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let (mut near, mut far) = pair();
    let actor = events.spawn(move |cx: &mut Cx<()>, event| {
        note_unit_event(&seen, &event);
        match event {
            Event::Start => {
                cx.register_source(&mut far, Interest::READABLE)?;
                suspend()
            }
            _ => receive(),
        }
    });
    for _ in 0..3 {
        near.write_all(b"x").unwrap();
        for _ in 0..3 {
            let now = events.now();
            events.run_once(Some(now)).unwrap();
        }
    }
    events.spawn(move |cx: &mut Cx<()>, _| {
        cx.resume(actor, ());
        stop()
    });
    for _ in 0..3 {
        let now = events.now();
        events.run_once(Some(now)).unwrap();
    }
    assert_eq!(log.take(), "start resumed ready");
}

fn note_unit_event(log: &Log, event: &Event<()>) {
    match event {
        Event::Start => log.note("start"),
        Event::Ready(_) => log.note("ready"),
        Event::Resumed(_) => log.note("resumed"),
        _ => log.note("?"),
    }
}

#[test]
fn source_deregistered_drops_its_waiting_event() {
    let mut events = real_loop();
    let log = Log::default();
    let seen = log.clone();
    let (mut near, mut far) = pair();
    let mut source = None;
    let actor = events.spawn(move |cx, event: Event<u32>| {
        tell(&seen, &event);
        match event {
            Event::Start => {
                source = Some(cx.register_source(&mut far, Interest::READABLE)?);
                suspend()
            }
            Event::Resumed(_) => {
                cx.deregister_source(source.take().unwrap(), &mut far)?;
                receive_if(|n| *n == 2)
            }
            _ => stop(),
        }
    });
    near.write_all(b"x").unwrap();
    for _ in 0..3 {
        let now = events.now();
        events.run_once(Some(now)).unwrap();
    }
    events.spawn(move |cx: &mut Cx<()>, _| {
        cx.resume(actor, ());
        cx.send(actor, 1)?;
        cx.send(actor, 2)?;
        stop()
    });
    events.run().unwrap();
    assert_eq!(log.take(), "start resumed 2");
    assert_eq!(events.stats().sources, 0);
}

#[test]
fn source_ends_with_actor_and_refuses_others() {
    let mut events = real_loop();
    let (mut near, mut far) = pair();
    let place = std::rc::Rc::new(std::cell::Cell::new(None));
    let registered = place.clone();
    let owner = events.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            registered.set(Some(cx.register_source(&mut far, Interest::READABLE)?));
        }
        receive()
    });
    until(&mut events, "the registration", |events| events.stats().sources == 1);
    let source = place.get().unwrap();
    let log = Log::default();
    let seen = log.clone();
    let (_keep, mut other) = pair();
    events.spawn(move |cx: &mut Cx<()>, _| {
        seen.note(cx.deregister_source(source, &mut other).unwrap_err().kind());
        seen.note(cx.reregister_source(source, &mut other, Interest::READABLE).unwrap_err().kind());
        cx.unfinished(source);
        cx.terminate(owner);
        stop()
    });
    events.run().unwrap();
    assert_eq!(log.take(), format!("{0} {0}", ErrorKind::NotFound));
    assert_eq!((events.stats().sources, events.stats().extras), (0, 0));
    let mut byte = [0];
    assert_eq!(near.read(&mut byte).unwrap(), 0, "the socket is closed");
}

#[test]
fn virtual_loop_refuses_sources() {
    let mut events = virtual_loop();
    let log = Log::default();
    let seen = log.clone();
    let (_near, mut far) = pair();
    within(&mut events, move |cx| {
        let error = cx.register_source(&mut far, Interest::READABLE).unwrap_err();
        seen.note(error);
    });
    assert_eq!(log.take(), "a virtual loop has no sockets; simulate them as actors");
}
