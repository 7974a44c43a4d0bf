//! Answers a `TokenReview`: whose token is this?

use serde_json::{Value, json};

use super::Authenticator;
use crate::authz::review::user_json;
use crate::lookup::{items, text};
use crate::status::{ApiError, ApiResult};

/// The posted review with its status.
pub async fn review(authenticator: &Authenticator, mut review: Value) -> ApiResult<Value> {
    let token = text(&review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        items(&review, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences = authenticator.api_audiences().to_vec();
    }
    review["status"] = match authenticator.authenticate_token(&token, &audiences).await {
        Ok(Some(found)) => {
            let mut status =
                json!({"authenticated": true, "user": user_json(&super::with_authenticated(found.user))});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(e) => json!({"user": {}, "error": format!("[invalid bearer token, {e}]")}),
    };
    Ok(review)
}
