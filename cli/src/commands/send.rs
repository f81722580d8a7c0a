//! `muster send`: the next message of a session, or an interrupt.

use clap::Args;
use muster_proto::v1::{Delivery, SendInputRequest, SendInputResponse, send_input_request::Input};

use crate::{
    args::Remote,
    client::{Client, present},
    commands::text_or_stdin,
    failure::{Exit, Failure},
    json,
    output::Output,
};

/// Arguments of `send`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// The message; `-` reads stdin
    #[arg(required_unless_present = "interrupt", value_name = "TEXT")]
    text: Option<String>,
    /// End the current turn instead; the session can go on with a message
    #[arg(long, conflicts_with = "text")]
    interrupt: bool,
    /// The same id again sends nothing a second time
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    #[command(flatten)]
    remote: Remote,
}

/// Sends.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let input = match &options.text {
        Some(text) => Input::Message(text_or_stdin(text)?),
        None => Input::Interrupt(options.interrupt),
    };
    let request =
        SendInputRequest { session: options.session, request_id: options.request_id, input: Some(input) };
    submit(client, output, request).await
}

/// Sends an input and tells what became of it.
pub async fn submit(mut client: Client, output: Output, request: SendInputRequest) -> Result<Exit, Failure> {
    let result = client.sessions.send_input(Client::call(request)).await;
    let response: SendInputResponse = client.result(result)?;
    let (delivery, replayed) = (response.delivery(), response.replayed);
    let session = present(response.session)?;
    if output.json {
        let mut document = json::session(&session);
        let name = delivery.as_str_name().trim_start_matches("DELIVERY_").to_ascii_lowercase();
        document["delivery"] = name.into();
        document["replayed"] = replayed.into();
        output.document(&document)?;
    } else {
        let what = match delivery {
            Delivery::Now | Delivery::Unspecified => "sent",
            Delivery::AfterTurn => "kept until the current turn ends",
            Delivery::NextAttempt => "queued for its next turn",
            Delivery::Nothing => "nothing to do: no turn is running",
        };
        output.line(&format!("{}  {what}", session.handle))?;
    }
    Ok(Exit::Ok)
}
