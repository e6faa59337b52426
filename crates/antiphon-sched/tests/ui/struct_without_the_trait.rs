//! A struct is an actor only if it implements the trait.
use antiphon_sched::Loop;

struct Plain;

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn_actor::<u32>(Plain);
}
