//! UDP sockets of actors.

use std::net::{Ipv4Addr, UdpSocket};

use antiphon_sched::*;

use crate::station::*;

/// A socket outside the loop. Its timeout ends a test that fails.
fn client_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(secs(20))).unwrap();
    socket
}

#[test]
fn datagram_has_sender_address_and_is_answered() {
    let mut station = Station::new(nothing);
    let udp = station.act(|cx| cx.udp("127.0.0.1:0", StationMessage::Datagram).unwrap());
    let peer = client_socket();
    for text in ["one", "", "three"] {
        peer.send_to(text.as_bytes(), udp.local_addr()).unwrap();
    }
    station.until("three datagrams", |station| station.log.datagrams.borrow().len() == 3);
    let from = peer.local_addr().unwrap();
    let expected: Vec<_> = ["one", "", "three"].map(|text| (from, text.as_bytes().to_vec())).into();
    assert_eq!(station.log.datagrams.take(), expected);
    station.act(move |cx| cx.send_to(udp, from, "back").unwrap());
    let mut bytes = [0; 9];
    let (count, sender) = peer.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..count], sender), (&b"back"[..], udp.local_addr()));
    let away = "192.0.2.1:9".parse().unwrap();
    let refused = station.act(move |cx| cx.send_to(udp, away, "x").unwrap_err());
    assert!(refused.to_string().contains("not on loopback"));
    station.act(move |cx| cx.close_udp(udp));
    let closed = station.act(move |cx| cx.send_to(udp, from, "x").unwrap_err());
    assert_eq!(closed.kind(), std::io::ErrorKind::NotFound);
    assert_eq!((station.events.stats().sockets, station.events.stats().sources), (0, 0));
}

#[test]
fn datagrams_wait_while_mailbox_is_full() {
    let config = LoopConfig { mailbox_max: 4, watchdog: None, ..LoopConfig::default() };
    let mut station = Station::on(Loop::new(config).unwrap(), nothing);
    let udp = station.act(|cx| cx.udp("127.0.0.1:0", StationMessage::Datagram).unwrap());
    let peer = client_socket();
    for n in 0..100_u8 {
        peer.send_to(&[n], udp.local_addr()).unwrap();
    }
    station.until("all datagrams", |station| station.log.datagrams.borrow().len() == 100);
    let numbers: Vec<u8> = station.log.datagrams.borrow().iter().map(|(_, data)| data[0]).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
}
