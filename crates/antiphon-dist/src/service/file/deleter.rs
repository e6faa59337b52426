//! The deleter of one file on another node: a service actor that `del_file` starts. It answers its caller once and stops.

use std::time::Duration;

use antiphon_sched::{Actor, ActorId, AskError, Cx, Event, ReplyTo, Step, receive, stop};

use super::messages::{DeleteAnswer, FILE_SERVICE, ToFileService};
use super::outcome::DeleteError;
use super::path::TargetPath;
use crate::cx::NetCx;
use crate::error::LocateError;
use crate::location::Location;
use crate::service::ServiceAddr;

/// A message that the deleter of a file handles.
pub(super) enum DeleterMessage {
    /// Starts the deletion; the caller of `del_file` waits for the reply.
    Begin(ReplyTo<Result<(), DeleteError>>),
    Located(Result<ServiceAddr<ToFileService>, LocateError>),
    Answered(Result<DeleteAnswer, AskError>),
    TimedOut,
}

/// The actor that asks another node to delete a file.
pub(super) struct Deleter {
    at: Location,
    path: TargetPath,
    timeout: Duration,
    /// The actor that called `del_file`; the deleter stops with it.
    caller: ActorId,
    is_locating: bool,
    /// The timeout has passed while the service was located.
    is_overdue: bool,
    answer: Option<ReplyTo<Result<(), DeleteError>>>,
}

impl Deleter {
    pub(super) fn new(at: Location, path: TargetPath, timeout: Duration, caller: ActorId) -> Self {
        Self { at, path, timeout, caller, is_locating: true, is_overdue: false, answer: None }
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
                cx.set_name("file deleter");
                cx.after(self.timeout, DeleterMessage::TimedOut)?;
                cx.monitor(self.caller);
            }
            Event::Message(DeleterMessage::Begin(answer)) => {
                self.answer = Some(answer);
                cx.locate_at(FILE_SERVICE, self.at, self.timeout, DeleterMessage::Located);
            }
            Event::Message(DeleterMessage::Located(Ok(_))) if self.is_overdue => {
                return self.end(cx, Err(DeleteError::TimedOut));
            }
            Event::Message(DeleterMessage::Located(Ok(service))) => {
                let path = self.path.clone().into_names();
                self.is_locating = false;
                cx.ask(
                    service.addr(),
                    self.timeout,
                    |reply| ToFileService::Delete(path, reply).into(),
                    DeleterMessage::Answered,
                );
            }
            Event::Message(DeleterMessage::Located(Err(reason))) => {
                return self.end(cx, Err(from_locate_error(&reason)));
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
            // The lookup times out too, and knows the reason.
            Event::Message(DeleterMessage::TimedOut) if self.is_locating => self.is_overdue = true,
            Event::Message(DeleterMessage::TimedOut) => return self.end(cx, Err(DeleteError::TimedOut)),
            Event::Down(down) if down.actor == self.caller => return stop(),
            _ => {}
        }
        receive()
    }
}

fn from_locate_error(reason: &LocateError) -> DeleteError {
    match reason {
        LocateError::TimedOut => DeleteError::NoAnswer,
        LocateError::Unreachable(error) => DeleteError::Unreachable(*error),
        LocateError::WrongType { .. } | LocateError::TypeNameTooLong { .. } => DeleteError::Version,
        LocateError::TooManyOpen | LocateError::Refused => DeleteError::TooManyOpen,
        LocateError::BadName | LocateError::NoNode => DeleteError::NoNode,
    }
}
