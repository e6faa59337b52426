//! One frame of each kind and each form.

use std::net::SocketAddr;
use std::num::NonZeroU64;

use antiphon_wire::frame::*;
use antiphon_wire::{Frame, Key, Locations, NodeId, Route, TagId};

pub(crate) fn all_frames<'a>(
    locations: &'a [SocketAddr],
    route_entries: &'a [(NodeId, Vec<SocketAddr>)],
) -> Vec<Frame<'a>> {
    let mut frames = control_frames();
    frames.extend(actor_frames(route_entries));
    frames.extend(name_frames(locations));
    frames
}

fn reply_refused(fault: PayloadFault<'static>) -> Frame<'static> {
    ReplyDropped { request_id: Key::from_bits(4), reason: ReplyDroppedReason::Payload(fault) }.into()
}

fn control_frames() -> Vec<Frame<'static>> {
    vec![
        Ack { next: 513 }.into(),
        Credit { until: 1_048_576 }.into(),
        Ping { token: 7 }.into(),
        Pong { token: 7 }.into(),
        Pause { actor: Key::from_bits(11) }.into(),
        Unpause { actor: Key::from_bits(11) }.into(),
        Close { reason: CloseReason::Idle }.into(),
        Close { reason: CloseReason::Misbehaved }.into(),
        IdleProposed { sent: 4 }.into(),
        IdleAgreed { sent: 4 }.into(),
        Begin { frame: 513 }.into(),
    ]
}

fn actor_frames<'a>(route_entries: &'a [(NodeId, Vec<SocketAddr>)]) -> Vec<Frame<'a>> {
    let (to, from, tag) = (Key::from_bits(0x0201), Key::from_bits(0x0403), TagId(5));
    let (watcher, target, id) = (Key::from_bits(1), Key::from_bits(2), 3);
    let route = Route::Plain(route_entries);
    let down = |reason| Frame::from(Down { watcher, actor: target, node: NodeId::from_bits(9), id, reason });
    vec![
        Tag { id: TagId(0), name: "vec<opt<acme.é/1>>" }.into(),
        Fragment { stream: 1, part: FragmentPart::First { kind: 0x22, total: 70_000 }, data: &[1, 2] }.into(),
        Fragment { stream: 1, part: FragmentPart::Next, data: &[3] }.into(),
        Message { to, from, tag, receipt: None, route: Route::NONE, body: &[0xc0] }.into(),
        Message { to, from, tag, receipt: Some(99), route, body: &[] }.into(),
        Answer { to: Key::from_bits(4), from, tag, route: Route::NONE, body: &[0xc3] }.into(),
        ReplyDropped { request_id: Key::from_bits(4), reason: ReplyDroppedReason::Dropped }.into(),
        ReplyDropped { request_id: Key::from_bits(4), reason: ReplyDroppedReason::Busy }.into(),
        reply_refused(PayloadFault::TooLarge { bytes: 17_000_000, max: 16_777_216 }),
        reply_refused(PayloadFault::TooManyValues { max: 1_048_576, place: "`Rows` at `.rows[7]`" }),
        reply_refused(PayloadFault::TooDeep { max: 48, place: "`Tree`" }),
        reply_refused(PayloadFault::Encode("no text")),
        PayloadRefused {
            from: Key::from_bits(0x0403),
            to: Key::from_bits(0x0201),
            fault: PayloadFault::Decode("invalid type: string \"a\", expected u64"),
        }
        .into(),
        Receipt { request: 99, outcome: Outcome::Delivered }.into(),
        Receipt {
            request: 99,
            outcome: Outcome::Payload(PayloadFault::WrongType { expected: "u64", found: "str" }),
        }
        .into(),
        Receipt { request: 99, outcome: Outcome::Payload(PayloadFault::Decode("missing field `x`")) }.into(),
        Receipt { request: 99, outcome: Outcome::Busy }.into(),
        Monitor { watcher, target, id }.into(),
        Demonitor { watcher, target, id }.into(),
        down(DownReason::Done(None)),
        down(DownReason::Done(Some((tag, &[0xc0])))),
        down(DownReason::Failed("no such file")),
        down(DownReason::Panicked("oh")),
        down(DownReason::Terminated),
        down(DownReason::NodeLost),
        down(DownReason::NoActor),
        down(DownReason::Refused),
        down(DownReason::Lagged),
        down(DownReason::DoneNotSent(PayloadFault::TooLarge { bytes: 17_000_000, max: 16_777_216 })),
        Notify { watcher, target, id }.into(),
        Terminate { from, target, grace: None }.into(),
        Terminate { from, target, grace: Some(5000) }.into(),
        Throw { from, target, tag, body: &[0xa1, b'x'] }.into(),
        Resume { from, target, tag, body: &[0xa1, b'x'] }.into(),
        Lagged { to, from, missed: 3, ended: false }.into(),
        Lagged { to, from, missed: 34_464, ended: true }.into(),
    ]
}

fn name_frames(locations: &[SocketAddr]) -> Vec<Frame<'_>> {
    let here = LookupResult::Found { key: Key::from_bits(7), tag: TagId(1) };
    let locations = Locations::Plain(locations);
    vec![
        Lookup { request: 1, space: NameSpace::Actor, all: false, name: "server" }.into(),
        Lookup { request: 2, space: NameSpace::Rci, all: true, name: "" }.into(),
        Lookup { request: 4, space: NameSpace::Service, all: false, name: "files" }.into(),
        CancelLookup { request: 1 }.into(),
        Found { request: 1, result: here }.into(),
        Found { request: 2, result: LookupResult::TooMany }.into(),
        Found { request: 2, result: LookupResult::BadName }.into(),
        NodeAt { request: 3, node: NodeId::from_bits(9), name: "nine", locations }.into(),
        Goodbye { reason: GoodbyeReason::Leaving }.into(),
        AnnounceRelay { request: NonZeroU64::MIN }.into(),
    ]
}
