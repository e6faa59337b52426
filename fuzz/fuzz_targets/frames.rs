//! Whole frames: a frame that decodes encodes to the same bytes.

#![no_main]

use antiphon_wire::frame::RawFrame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let mut rest = body;
    while let Ok(Some(raw)) = RawFrame::take_from(&mut rest) {
        let Ok(Some(frame)) = raw.decode() else { continue };
        let mut again = Vec::new();
        frame.encode(&mut again).expect("a decoded frame is within the size limit");
        assert_eq!(frame.payload_size(), raw.payload.len());
        assert_eq!(again[4..], *raw.payload, "{frame:?}");
        assert_eq!(again[0], raw.kind);
    }
});
