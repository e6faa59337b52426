//! Has a file deleted at another node: a hidden actor, started by `del_file`, which answers once and ends.

use std::time::Duration;

use antiphon_sched::{Actor, ActorId, AskError, Cx, Event, ReplyTo, Step, receive, stop};

use super::messages::{DeleteAnswer, KEEPER, Keeper, ToKeeper};
use super::outcome::DeleteError;
use super::path::TargetPath;
use crate::cx::NetCx;
use crate::error::LocateError;
use crate::location::Location;

/// What a deleter is told.
pub(super) enum Note {
    /// Who wants the file deleted waits for this answer.
    Begin(ReplyTo<Result<(), DeleteError>>),
    Keeper(Result<Keeper, LocateError>),
    Answered(Result<DeleteAnswer, AskError>),
    Late,
}

pub(super) struct Deleter {
    at: Location,
    path: TargetPath,
    timeout: Duration,
    /// Who wants it: this ends with that actor.
    asker: ActorId,
    looking: bool,
    answer: Option<ReplyTo<Result<(), DeleteError>>>,
}

impl Deleter {
    pub(super) fn new(at: Location, path: TargetPath, timeout: Duration, asker: ActorId) -> Self {
        Self { at, path, timeout, asker, looking: true, answer: None }
    }

    fn end(&mut self, cx: &mut Cx<'_, Note>, result: Result<(), DeleteError>) -> Step<Note> {
        if let Some(answer) = self.answer.take() {
            cx.reply(answer, result);
        }
        stop()
    }
}

impl Actor<Note> for Deleter {
    fn step(&mut self, cx: &mut Cx<'_, Note>, event: Event<Note>) -> Step<Note> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("deleter of a file");
                cx.after(self.timeout, Note::Late);
                cx.monitor(self.asker);
            }
            Event::Message(Note::Begin(answer)) => {
                self.answer = Some(answer);
                cx.locate_at(KEEPER, self.at, self.timeout, Note::Keeper);
            }
            Event::Message(Note::Keeper(Ok(Keeper(keeper)))) => {
                let path = self.path.clone().into_names();
                self.looking = false;
                cx.ask(keeper, self.timeout, |reply| ToKeeper::Delete(path, reply).into(), Note::Answered);
            }
            Event::Message(Note::Keeper(Err(reason))) => return self.end(cx, Err(of_locating(&reason))),
            Event::Message(Note::Answered(done)) => {
                let result = match done {
                    Ok(DeleteAnswer(Ok(true))) => Ok(()),
                    Ok(DeleteAnswer(Ok(false))) => Err(DeleteError::NotFound),
                    Ok(DeleteAnswer(Err(reason))) => Err(reason.into()),
                    Err(reason) => Err(reason.into()),
                };
                return self.end(cx, result);
            }
            Event::Message(Note::Late) => {
                let reason = if self.looking { DeleteError::NoAnswer } else { DeleteError::TimedOut };
                return self.end(cx, Err(reason));
            }
            Event::Down(down) if down.actor == self.asker => return stop(),
            _ => {}
        }
        receive()
    }
}

fn of_locating(reason: &LocateError) -> DeleteError {
    match reason {
        LocateError::TimedOut => DeleteError::NoAnswer,
        LocateError::WrongType { .. } | LocateError::TypeNameTooLong { .. } => DeleteError::Version,
        LocateError::TooManyOpen | LocateError::Refused => DeleteError::TooManyOpen,
        LocateError::BadName | LocateError::NoNode => DeleteError::NoNode,
    }
}
