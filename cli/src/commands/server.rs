//! `fathom server`: the history of many machines behind tokens, in a database server.

use crate::args::Context;
use crate::client::{Problem, Refusal};
use crate::failure::{Exit, Failure, Result};
use crate::local::endpoint;
use crate::output::{self, OutputArgs};
use fathom_api::{Answer, Api, Config, CreateJob, ForkJob, Intent, IntentError};
use fathom_store::Store;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Bytes of a seed.
const SEED: usize = 32;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Environment:\n  DATABASE_URL  the PostgreSQL server of the history, with its password\n  \
                  FATHOM_SEED   64 hexadecimal digits; replicas behind one address share them, so that a cursor of one works at another"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<ServerCommand>,
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:7316", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// What to do besides serving.
#[derive(Debug, clap::Subcommand)]
enum ServerCommand {
    /// Make tokens
    #[command(subcommand)]
    Token(TokenCommand),
}

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token and print it; it is shown only now
    Create(CreateArgs),
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scope {
    /// Create, pause, resume, cancel, fork and delete jobs
    #[value(name = "jobs:write")]
    JobsWrite,
    /// Read everything but tokens
    #[value(name = "runs:read")]
    RunsRead,
    /// Report metrics, logs, checkpoints and status
    #[value(name = "metrics:write")]
    MetricsWrite,
    /// Everything, tokens included
    #[value(name = "admin")]
    Admin,
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// A name for people, 1 to 100 characters
    name: String,
    /// What it may do; repeat it, or separate several with commas
    #[arg(long = "scope", value_enum, required = true, value_delimiter = ',', value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// Days until it expires
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=366), value_name = "N")]
    days: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    context.terminal.start_log();
    let database = database()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "cannot start the server").caused_by(&error))?;
    match &args.command {
        None => runtime.block_on(serve(args.listen, &database, seed()?, context)),
        Some(ServerCommand::Token(TokenCommand::Create(args))) => {
            let token = runtime.block_on(create_token(args, &database))?;
            output::print(args.output.output, &token, |token| {
                token["token"].as_str().unwrap_or_default().to_owned()
            })?;
            let expires = token["expiresAt"].as_str().unwrap_or_default();
            context.terminal.note(&format!(
                "It expires at {expires} and is not shown again: put it into FATHOM_TOKEN."
            ));
            Ok(())
        }
    }
}

async fn serve(listen: SocketAddr, database: &str, seed: [u8; SEED], context: &Context) -> Result {
    // Before anything that takes time: a signal during the start is obeyed after it.
    let (interrupt, terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::new(Exit::Conflict, format!("cannot listen on {listen}"))
            .caused_by(&error)
            .help("choose another address with `--listen`")
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(Exit::Failed, "cannot listen").caused_by(&error))?;
    let store = open(database).await?;
    let api = Api::new(store.clone(), Config::tokens(seed), Arc::new(HistoryOnly));
    output::stdout(&format!("http://{address}"))?;
    if !address.ip().is_loopback() {
        let note = "Tokens travel as they are: put a proxy that speaks TLS in front of this address.";
        context.terminal.note(note);
    }
    let served = fathom_api::serve(listener, api, stopped(interrupt, terminate)).await;
    store.close().await;
    served.map_err(|error| Failure::new(Exit::Failed, "the server failed").caused_by(&error))
}

fn on(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, "cannot handle signals").caused_by(&error))
}

async fn stopped(mut interrupt: Signal, mut terminate: Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The JSON of `POST /tokens`. Whoever has the database needs no token to make one: the first of a server is made here.
async fn create_token(args: &CreateArgs, database: &str) -> Result<Value> {
    let store = open(database).await?;
    // Not the seed of the environment: who knows that one could guess a token by the time of its making.
    let api = Api::new(store.clone(), Config::tokens(endpoint::random()?), Arc::new(HistoryOnly));
    let names = args.scopes.iter().filter_map(clap::ValueEnum::to_possible_value);
    let scopes: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
    let made = api.create_token(&args.name, &scopes, args.days).await;
    store.close().await;
    made.map_err(|problem| {
        let body = serde_json::to_value(&problem).unwrap_or_default();
        let status = body["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
        let wrong: Vec<String> = body["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|error| {
                format!(
                    "{}: {}",
                    error["pointer"].as_str().unwrap_or_default(),
                    error["detail"].as_str().unwrap_or_default()
                )
            })
            .collect();
        let failure = Failure::from(Refusal::Problem(Problem { status, body }));
        wrong.into_iter().fold(failure, Failure::cause)
    })
}

/// The URL of the database, which holds its password: arguments are in lists of processes, so it is none.
fn database() -> Result<String> {
    match std::env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Ok(url),
        Ok(_) | Err(_) => Err(Failure::new(Exit::Usage, "DATABASE_URL is not set").help(
            "set it to a PostgreSQL server, as in postgres://user:password@host:5432/fathom; for one machine, `fathom ui` needs none",
        )),
    }
}

async fn open(database: &str) -> Result<Store> {
    Store::connect(database).await.map_err(|error| {
        Failure::new(Exit::Failed, "cannot open the database that DATABASE_URL names")
            .caused_by(&error)
            .help("check the URL, that the server runs, and that its user may create tables")
    })
}

/// The seed of the environment, or a new one.
fn seed() -> Result<[u8; SEED]> {
    match std::env::var("FATHOM_SEED") {
        Ok(text) if !text.is_empty() => hexadecimal(text.trim()).ok_or_else(|| {
            Failure::new(Exit::Usage, "FATHOM_SEED is not 64 hexadecimal digits").help("make a seed with `openssl rand -hex 32`")
        }),
        Ok(_) | Err(_) => endpoint::random(),
    }
}

fn hexadecimal(text: &str) -> Option<[u8; SEED]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != SEED || !rest.is_empty() {
        return None;
    }
    let mut seed = [0; SEED];
    for (byte, pair) in seed.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(seed)
}

/// A server without anything that runs jobs.
struct HistoryOnly;

fn unavailable<'a, T: 'a>() -> Answer<'a, T> {
    let reason = "This server does not run jobs; it takes in and shows history.";
    Box::pin(async move { Err(IntentError::Unavailable(reason.into())) })
}

impl Intent for HistoryOnly {
    fn create(&self, _: CreateJob) -> Answer<'_, String> {
        unavailable()
    }

    fn pause<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        unavailable()
    }

    fn resume<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        unavailable()
    }

    fn cancel<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        unavailable()
    }

    fn fork(&self, _: ForkJob) -> Answer<'_, String> {
        unavailable()
    }

    fn plan<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Value> {
        unavailable()
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        // There is nothing but history, which the API deletes then.
        Box::pin(async { Err(IntentError::NotFound) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_whole() {
        let text = "00ff".repeat(16);
        assert_eq!(hexadecimal(&text).unwrap()[..3], [0, 255, 0]);
        assert_eq!(hexadecimal(&text[1..]), None);
        assert_eq!(hexadecimal(&text[2..]), None);
        assert_eq!(hexadecimal(&format!("{text}00")), None);
        assert_eq!(hexadecimal(&text.replace('f', "g")), None);
    }
}
