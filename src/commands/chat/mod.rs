//! `phi3v chat`: questions and answers in turn, in a terminal or through a pipe.

mod answer;
mod args;
mod command;
mod conversation;
mod editor;
mod history;
mod images;
mod saved;
mod settings;
mod statistics;
mod words;

use std::io::IsTerminal;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use phi3v::memory::Demand;
use phi3v::processor::images::ImageLimits;
use phi3v::processor::{Processor, Turn};

pub(crate) use args::ChatArgs;
use args::ChatImageArgs;
use command::{Command, Line};
use conversation::{Conversation, Undone};
use editor::{Entry, Input};
use history::History;
use saved::Saved;
use settings::Settings;
use statistics::Statistics;

use super::session::{self, Session};
use crate::commands::args::OutputArgs;
use crate::ui::{self, Ui};
use crate::{interrupt, is_broken_pipe};

pub(super) fn run(args: ChatArgs) -> Result<ExitCode> {
    let ChatArgs { system, max_tokens, stop, history, no_history, no_color, output, model, images, sampling, engine } =
        args;
    let OutputArgs { quiet, verbose } = output;
    let ChatImageArgs { images, options } = images;
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let color = !no_color && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let terminal = std::io::stdin().is_terminal();
    let ui = Ui::new(quiet, verbose).in_color(color && std::io::stderr().is_terminal());

    // Everything cheap first: a mistake should not cost a download or the loading of a model.
    let limits = options.limits();
    let reading = Instant::now();
    let images = images.iter().map(|source| images::read(source, &limits)).collect::<Result<Vec<_>>>()?;
    let image_time = reading.elapsed();
    let name = model.name().to_owned();
    let opened = session::open(model, &ui)?;
    ensure!(
        opened.processor.has_chat_template(),
        "{name} has no chat template, so it cannot chat; use phi3v generate --ignore-chat-template"
    );
    let mut chat = Chat {
        conversation: Conversation::default(),
        settings: Settings {
            sampling: sampling.into(),
            max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
            image_options: options.options(),
        },
        stop,
        limits,
        model: name,
        statistics: Statistics::default(),
        image_time,
        thumbnails: color && !quiet && terminal && std::io::stdout().is_terminal(),
        ui,
    };
    chat.set_system(system, &opened.processor)?;
    chat.attach(images, &opened.processor)?;
    let demand = chat.demand(&opened.processor, opened.files.max_position_embeddings()?)?;

    let loading = Instant::now();
    let session = opened.load(engine, demand, Some(1), &chat.ui)?;
    chat.statistics = Statistics::new(loading.elapsed());
    let mut input = if terminal { Input::terminal(color, chat.history(history, no_history))? } else { Input::Pipe };
    interrupt::listen()?;
    if terminal {
        chat.ui.note("Ask, or /help. Ctrl-D leaves.");
    }
    let code = chat.run(&session, &mut input)?;
    if chat.statistics.answers() > 0 {
        session.save_prompt()?;
    }
    Ok(code)
}

/// A conversation and all that it goes on with.
struct Chat {
    conversation: Conversation,
    settings: Settings,
    stop: Vec<String>,
    limits: ImageLimits,
    /// As it was named.
    model: String,
    statistics: Statistics,
    /// Time for the images that are attached.
    image_time: Duration,
    /// Whether images are shown.
    thumbnails: bool,
    ui: Ui,
}

impl Chat {
    fn history(&self, named: Option<PathBuf>, none: bool) -> Option<(History, Vec<String>)> {
        let path = if none { None } else { named.or_else(history::default_path) };
        let opened = History::open(path?);
        opened.inspect_err(|error| self.ui.warning(format!("{error:#}; what is typed is forgotten in the end"))).ok()
    }

    /// What is to be expected before anything was asked.
    fn demand(&self, processor: &Processor, context: usize) -> Result<Demand> {
        let mut asked = self.conversation.clone();
        asked.ask(String::new());
        let place = |text: &str, images: Range<usize>| processor.with_placeholders(text, images);
        let prompt = processor.prepare_turns(&asked.turns(&place)?, asked.pixels())?;
        prompt.check_fits(context)?;
        Ok(Demand::of(&prompt, self.settings.max_tokens))
    }

    /// Serves entries until there are no more.
    fn run(&mut self, session: &Session, input: &mut Input) -> Result<ExitCode> {
        loop {
            if !input.is_terminal() {
                // Nothing is being done that Ctrl-C could end; in a terminal it is a key while a line is edited.
                interrupt::stop_listening();
            }
            let entry = input.next()?;
            interrupt::reset();
            if let Err(error) = input.remember(&entry) {
                self.ui.warning(format!("{error:#}"));
            }
            let flow = match entry {
                Entry::Line(line) => self.line(line.trim(), session),
                Entry::Block(text) => self.ask(&text, session),
                Entry::Interrupted => {
                    self.ui.note("Ctrl-D or /exit leaves.");
                    continue;
                }
                Entry::Unusable(why) => Err(anyhow::Error::msg(why)),
                Entry::End => return Ok(ExitCode::SUCCESS),
            };
            match flow {
                Ok(ControlFlow::Continue(())) if interrupt::requested() && !input.is_terminal() => {
                    return Ok(ExitCode::from(interrupt::EXIT_CODE));
                }
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(ExitCode::SUCCESS),
                Err(error) if is_broken_pipe(&error) => return Err(error),
                Err(error) => ui::error(&error),
            }
        }
    }

    fn line(&mut self, line: &str, session: &Session) -> Result<ControlFlow<()>> {
        if line.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if let Some((images, question)) = words::dropped(line) {
            self.read_and_attach(&images, session.engine.processor())?;
            return if question.is_empty() { Ok(ControlFlow::Continue(())) } else { self.ask(question, session) };
        }
        match Line::parse(line)? {
            Line::Question(question) => self.ask(question, session),
            Line::Command(Command::Exit, _) => Ok(ControlFlow::Break(())),
            Line::Command(command, argument) => {
                self.command(command, argument, session)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    fn ask(&mut self, question: &str, session: &Session) -> Result<ControlFlow<()>> {
        ensure!(!question.trim().is_empty(), "the question is empty");
        self.conversation.ask(question.to_owned());
        self.answer(None, session)?;
        Ok(ControlFlow::Continue(()))
    }

    fn command(&mut self, command: Command, argument: &str, session: &Session) -> Result<()> {
        match command {
            Command::Image => self.image(argument, session)?,
            Command::System => self.system(argument, session.engine.processor())?,
            Command::Clear => {
                self.conversation.clear();
                self.ui.note("the conversation begins anew");
            }
            Command::Undo => match self.conversation.undo() {
                Undone::Nothing => self.ui.note("there is nothing to take back"),
                Undone::Images(n) => self.ui.note(format!("taken back: {}", count(n, "image"))),
                Undone::Question(question) => self.ui.note(format!("taken back: {question}")),
            },
            Command::Regenerate => self.regenerate(session)?,
            Command::Save => {
                let file = words::file(argument)?;
                Saved::of(&self.conversation, &self.model).write(&file)?;
                self.ui.note(format!("the conversation is in {}", file.display()));
            }
            Command::Load => self.load(argument, session)?,
            Command::Set => self.ui.reply(self.settings.command(argument)?),
            Command::Stats => self.ui.reply(self.statistics.all()),
            Command::Help | Command::Exit => self.ui.reply(command::help()),
        }
        Ok(())
    }

    fn system(&mut self, argument: &str, processor: &Processor) -> Result<()> {
        match (argument, &self.conversation.system) {
            ("", Some(text)) => self.ui.reply(text),
            ("", None) => self.ui.reply("there is no system message"),
            ("\"\"", _) => {
                self.conversation.system = None;
                self.ui.note("there is no system message any more");
            }
            (text, _) => {
                self.set_system(Some(text.to_owned()), processor)?;
                self.ui.note("the system message holds from now on");
            }
        }
        Ok(())
    }

    /// Sets the system message, if the model's template takes one.
    fn set_system(&mut self, system: Option<String>, processor: &Processor) -> Result<()> {
        if let Some(text) = &system {
            processor
                .prepare_turns(&[Turn::new("system", text), Turn::new("user", "?")], Vec::new())
                .context("this model takes no such system message")?;
        }
        self.conversation.system = system;
        Ok(())
    }

    fn load(&mut self, argument: &str, session: &Session) -> Result<()> {
        let file = words::file(argument)?;
        let saved = Saved::read(&file)?;
        let other = (saved.model != self.model).then(|| saved.model.clone());
        let processor = session.engine.processor();
        let reading = Instant::now();
        let conversation = saved
            .into_conversation(|image| images::restore(image, &self.limits, processor))
            .with_context(|| format!("cannot go on with the conversation in {}", file.display()))?;
        ensure!(!interrupt::requested(), "interrupted; the conversation is as it was");
        self.image_time = reading.elapsed();
        self.conversation = conversation;
        self.keep_own_tokens(processor);
        if let Some(other) = other {
            self.ui.note(format!("it was held with {other}"));
        }
        let questions = count(self.conversation.exchanges.len(), "question");
        let images = count(self.conversation.images().count(), "image");
        self.ui.note(format!("{}: {questions} with answers, {images}", file.display()));
        Ok(())
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
