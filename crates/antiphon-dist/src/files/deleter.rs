//! Has a file deleted at another node: a hidden actor, started by `del_file`, which answers once and ends.

use std::time::Duration;

use antiphon_sched::{Actor, ActorId, AskError, Cx, Event, ReplyTo, Step, receive, stop};

use super::messages::{DeleteAnswer, FILE_SERVICE, FileServiceName, ToFileService};
use super::outcome::DeleteError;
use super::path::TargetPath;
use crate::cx::NetCx;
use crate::error::LocateError;
use crate::location::Location;

/// What a deleter is told.
pub(super) enum DeleterMessage {
    /// Who wants the file deleted waits for this answer.
    Begin(ReplyTo<Result<(), DeleteError>>),
    Located(Result<FileServiceName, LocateError>),
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

    fn end(
        &mut self,
        cx: &mut Cx<'_, DeleterMessage>,
        result: Result<(), DeleteError>,
    ) -> Step<DeleterMessage> {
        if let Some(answer) = self.answer.take() {
            cx.reply(answer, result);
        }
        stop()
    }
}

impl Actor<DeleterMessage> for Deleter {
    fn step(
        &mut self,
        cx: &mut Cx<'_, DeleterMessage>,
        event: Event<DeleterMessage>,
    ) -> Step<DeleterMessage> {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.set_name("deleter of a file");
                cx.after(self.timeout, DeleterMessage::Late);
                cx.monitor(self.asker);
            }
            Event::Message(DeleterMessage::Begin(answer)) => {
                self.answer = Some(answer);
                cx.locate_at(FILE_SERVICE, self.at, self.timeout, DeleterMessage::Located);
            }
            Event::Message(DeleterMessage::Located(Ok(FileServiceName(service)))) => {
                let path = self.path.clone().into_names();
                self.looking = false;
                cx.ask(
                    service,
                    self.timeout,
                    |reply| ToFileService::Delete(path, reply).into(),
                    DeleterMessage::Answered,
                );
            }
            Event::Message(DeleterMessage::Located(Err(reason))) => {
                return self.end(cx, Err(of_locating(&reason)));
            }
            Event::Message(DeleterMessage::Answered(done)) => {
                let result = match done {
                    Ok(DeleteAnswer(Ok(true))) => Ok(()),
                    Ok(DeleteAnswer(Ok(false))) => Err(DeleteError::NotFound),
                    Ok(DeleteAnswer(Err(reason))) => Err(reason.into()),
                    Err(reason) => Err(reason.into()),
                };
                return self.end(cx, result);
            }
            Event::Message(DeleterMessage::Late) => {
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
