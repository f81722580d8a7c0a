use super::*;

fn open(reason: AttentionReason, request: Value) -> OpenRequest {
    OpenRequest { request_id: "r1".to_owned(), attention_id: "a0".to_owned(), reason, request }
}

fn bash() -> OpenRequest {
    let request = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "touch made"},
        "permission_suggestions": [
            {"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow", "destination": "localSettings"},
            {"type": "setMode", "mode": "acceptEdits", "destination": "session"}]});
    open(AttentionReason::Permission, request)
}

fn ask() -> OpenRequest {
    let request = json!({"subtype": "can_use_tool", "tool_name": "AskUserQuestion", "input": {"questions": [
        {"question": "Which DB?", "header": "DB", "options": [{"label": "P"}, {"label": "S"}], "multiSelect": false},
        {"question": "Which OS?", "header": "OS", "options": [{"label": "L"}, {"label": "M"}], "multiSelect": true}]}});
    open(AttentionReason::Input, request)
}

fn plan_open() -> OpenRequest {
    let request = json!({"subtype": "can_use_tool", "tool_name": "ExitPlanMode", "input": {"plan": "# P"}});
    open(AttentionReason::PlanApproval, request)
}

fn form() -> OpenRequest {
    let request = json!({"subtype": "elicitation", "mcp_server_name": "t", "message": "Who?", "requested_schema":
        {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}});
    open(AttentionReason::Input, request)
}

fn answer(decision: Decision, text: &str, answers: &[(&str, &str)], updated: &str) -> Answer {
    Answer {
        attention_id: "a0".to_owned(),
        decision: decision.into(),
        text: text.to_owned(),
        answers: answers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        updated_input_json: updated.to_owned(),
    }
}

fn said(open: &OpenRequest, answer: &Answer) -> Value {
    let bytes = line(open, answer, false).expect("it fits");
    assert_eq!(bytes.last(), Some(&b'\n'));
    let value: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(value["type"], "control_response");
    assert_eq!(value["response"]["subtype"], "success");
    assert_eq!(value["response"]["request_id"], "r1");
    value["response"]["response"].clone()
}

#[test]
fn a_permission_is_allowed_as_asked_or_changed() {
    let got = said(&bash(), &answer(Decision::Allow, "", &[], ""));
    assert_eq!(got, json!({"behavior": "allow", "updatedInput": {"command": "touch made"}}));
    let got = said(&bash(), &answer(Decision::Allow, "", &[], r#"{"command":"ls"}"#));
    assert_eq!(got["updatedInput"], json!({"command": "ls"}));
}

#[test]
fn allow_always_writes_no_settings_file() {
    let got = said(&bash(), &answer(Decision::AllowAlways, "", &[], ""));
    let rules = got["updatedPermissions"].as_array().expect("there");
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().all(|rule| rule["destination"] == "session"), "{got}");
}

#[test]
fn a_denial_carries_its_message() {
    let got = said(&bash(), &answer(Decision::Deny, "not now", &[], ""));
    assert_eq!(got, json!({"behavior": "deny", "message": "not now"}));
    assert_eq!(said(&bash(), &answer(Decision::Deny, "", &[], ""))["message"], DENIED);
}

#[test]
fn questions_are_answered_by_text_header_and_free_text() {
    let got = said(&ask(), &answer(Decision::Unspecified, "Oracle", &[("OS", "L, M")], ""));
    assert_eq!(got["updatedInput"]["answers"], json!({"Which OS?": "L, M", "Which DB?": "Oracle"}));
    assert_eq!(got["updatedInput"]["questions"].as_array().map(Vec::len), Some(2));
    let got = said(&ask(), &answer(Decision::Deny, "ask me later", &[], ""));
    assert_eq!(got, json!({"behavior": "deny", "message": "ask me later"}));
}

#[test]
fn a_plan_is_approved_edited_or_sent_back() {
    let got = said(&plan_open(), &answer(Decision::Allow, "", &[], ""));
    assert_eq!(got, json!({"behavior": "allow", "updatedInput": {"plan": "# P"}}));
    let got = said(&plan_open(), &answer(Decision::Allow, "", &[], r##"{"plan":"# Q"}"##));
    assert_eq!(got["updatedInput"]["plan"], "# Q");
    for decision in [Decision::Deny, Decision::Unspecified] {
        let got = said(&plan_open(), &answer(decision, "smaller", &[], ""));
        assert_eq!(got, json!({"behavior": "deny", "message": "smaller"}));
    }
    let got = said(&plan_open(), &answer(Decision::AllowAlways, "", &[], ""));
    assert_eq!(got["updatedPermissions"][0]["mode"], "acceptEdits");
    let trusting = line(&plan_open(), &answer(Decision::Allow, "", &[], ""), true).expect("it fits");
    let trusting: Value = serde_json::from_slice(&trusting).expect("JSON");
    assert_eq!(trusting["response"]["response"]["updatedPermissions"][0]["mode"], "bypassPermissions");
}

#[test]
fn a_form_is_accepted_with_typed_fields_or_declined() {
    let got = said(&form(), &answer(Decision::Allow, "Ada", &[("age", "36")], ""));
    assert_eq!(got, json!({"action": "accept", "content": {"age": 36, "name": "Ada"}}));
    let got = said(&form(), &answer(Decision::Allow, "", &[], r#"{"name":"Bob"}"#));
    assert_eq!(got, json!({"action": "accept", "content": {"name": "Bob"}}));
    assert_eq!(said(&form(), &answer(Decision::Deny, "", &[], "")), json!({"action": "decline"}));
}

#[test]
fn what_answers_nothing_is_refused() {
    let none = answer(Decision::Unspecified, "", &[], "");
    assert_eq!(line(&bash(), &none, false), Err(AnswerError::NoDecision));
    assert_eq!(
        line(&bash(), &answer(Decision::Unspecified, "yes", &[], ""), false),
        Err(AnswerError::NoDecision)
    );
    assert_eq!(line(&plan_open(), &none, false), Err(AnswerError::NoDecision));
    assert_eq!(line(&ask(), &none, false), Err(AnswerError::Empty));
    assert_eq!(line(&form(), &none, false), Err(AnswerError::Empty));
    let wrong = answer(Decision::Allow, "", &[("Who?", "me")], "");
    assert_eq!(line(&ask(), &wrong, false), Err(AnswerError::NoSuchQuestion("Who?".to_owned())));
    assert_eq!(line(&bash(), &answer(Decision::Allow, "", &[], "[1]"), false), Err(AnswerError::NotAnObject));
}
