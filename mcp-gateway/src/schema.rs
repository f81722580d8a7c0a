//! JSON Schemas every client takes.
//!
//! schemars writes what is right and what some clients refuse: `null` in types, `$ref`, formats of its own,
//! `oneOf` of constants. Here they are made plain. Invariant: no `$ref`, no null type, no root combinator, no
//! unknown `format`.

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

/// How deep an output schema describes: the model reads the values, not the schema, and each level costs
/// tokens in every conversation that loads the tools.
const OUTPUT_DEPTH: usize = 1;
/// Most fields an output schema lists one by one.
const OUTPUT_FIELDS: usize = 24;

/// Schema of a tool's arguments, with descriptions.
pub(crate) fn input<T: JsonSchema>() -> Arc<JsonObject> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    plain(&mut schema);
    object(schema)
}

/// Schema of a tool's result: names and types, without prose and without the inside of nested objects.
pub(crate) fn output<T: JsonSchema>() -> Arc<JsonObject> {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    plain(&mut schema);
    shallow(&mut schema, OUTPUT_DEPTH);
    only_certain(&mut schema);
    object(schema)
}

/// Of a result with very many fields only those that are always there: the rest is allowed all the same.
fn only_certain(schema: &mut Value) {
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = schema.get_mut("properties")
        && properties.len() > OUTPUT_FIELDS
    {
        properties.retain(|name, _| required.iter().any(|required| required == name));
    }
}

fn object(mut schema: Value) -> Arc<JsonObject> {
    let Some(map) = schema.as_object_mut() else { return Arc::new(JsonObject::new()) };
    for key in ["$schema", "title", "description", "$defs"] {
        map.remove(key);
    }
    map.entry("type").or_insert_with(|| json!("object"));
    map.entry("properties").or_insert_with(|| json!({}));
    Arc::new(map.clone())
}

/// Removes what clients stumble over, at every level.
fn plain(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for combinator in ["anyOf", "oneOf"] {
        let Some(Value::Array(options)) = map.get_mut(combinator) else { continue };
        options.retain(|option| option.get("type").is_none_or(|kind| kind != "null"));
        if let [only] = options.as_mut_slice() {
            let only = only.take();
            map.remove(combinator);
            merge(map, only);
        } else if let Some(values) = constants(options) {
            map.remove(combinator);
            map.insert("type".to_owned(), json!("string"));
            map.insert("enum".to_owned(), Value::Array(values));
        }
    }
    if let Some(Value::Array(kinds)) = map.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_mut_slice() {
            let only = only.take();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if map.get("default").is_some_and(Value::is_null) {
        map.remove("default");
    }
    map.remove("format");
    map.remove("title");
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(plain);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            plain(inner);
        }
    }
}

fn merge(map: &mut JsonObject, inner: Value) {
    if let Value::Object(inner) = inner {
        for (key, value) in inner {
            map.entry(key).or_insert(value);
        }
    }
}

/// The values of a list of constants, as schemars writes a documented enum.
fn constants(options: &[Value]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    for option in options {
        match (option.get("const"), option.get("enum")) {
            (Some(value), _) => values.push(value.clone()),
            (None, Some(Value::Array(more))) => values.extend(more.iter().cloned()),
            _ => return None,
        }
    }
    Some(values)
}

fn shallow(schema: &mut Value, depth: usize) {
    let Some(map) = schema.as_object_mut() else { return };
    map.remove("description");
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        if depth == 0 {
            map.remove("properties");
            map.remove("required");
        } else {
            properties.values_mut().for_each(|inner| shallow(inner, depth - 1));
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            shallow(inner, depth.saturating_sub(1));
        }
    }
    for key in ["minimum", "maximum"] {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Colour {
        /// Documented, so schemars writes a oneOf.
        DarkRed,
        Blue,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Sample {
        /// How many.
        count: Option<u32>,
        colour: Option<Colour>,
        nested: Option<Vec<Inner>>,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        x: u64,
    }

    #[test]
    fn schemas_are_plain() {
        let schema = Value::Object(input::<Sample>().as_ref().clone());
        assert_eq!(
            schema["properties"]["count"],
            json!({"type": "integer", "minimum": 0, "description": "How many."})
        );
        assert_eq!(schema["properties"]["colour"]["type"], "string");
        assert_eq!(schema["properties"]["colour"]["enum"].as_array().map(Vec::len), Some(2));
        assert_eq!(schema["properties"]["nested"]["type"], "array");
        let text = output::<Sample>();
        let text = serde_json::to_string(text.as_ref()).expect("JSON");
        assert!(!text.contains("null") && !text.contains("$ref") && !text.contains("How many"), "{text}");
    }
}
