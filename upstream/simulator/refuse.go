package simulator

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"
)

// Messages of failures that have no error code of their own, for
// Reply.Message. Clients and gateways tell them by their words.
const (
	// CreditBalanceTooLow comes with 400.
	CreditBalanceTooLow = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."
	// InvalidSignature and BoundElsewhere come with 400, after the block's
	// place: "messages.1.content.0: …".
	InvalidSignature = "Invalid `signature` in `thinking` block"
	BoundElsewhere   = InvalidSignature + ". The block is bound to a different conversation"
	// ThinkingExpected comes with 400, after the block's place, for a tool turn
	// without its thinking. Its spelling is the API's.
	ThinkingExpected = "Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks). To avoid this requirement, disable `thinking`."
)

// BadGatewayHTML is a proxy's page, for Reply.Body with 502.
const BadGatewayHTML = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"

// statusErrors are the API's error types, and fitting messages.
var statusErrors = map[int]struct{ kind, message string }{
	400: {"invalid_request_error", "Invalid request"},
	401: {"authentication_error", "invalid x-api-key"},
	402: {"billing_error", "Payment required: there is a problem with your billing information."},
	403: {"permission_error", "Your API key does not have permission to use the specified resource."},
	404: {"not_found_error", "Not found"},
	405: {"invalid_request_error", "Method Not Allowed"},
	408: {"timeout_error", "Request timeout"},
	409: {"conflict_error", "The request conflicts with another one."},
	413: {"request_too_large", "Request exceeds the maximum size"},
	422: {"invalid_request_error", "Unprocessable request"},
	429: {"rate_limit_error", "This request would exceed your account's rate limit. Please try again later."},
	500: {"api_error", "Internal server error"},
	502: {"api_error", "Bad gateway"},
	503: {"overloaded_error", "Service unavailable"},
	504: {"timeout_error", "The request timed out while processing."},
	529: {"overloaded_error", "Overloaded"},
}

// codeMessages are what the API says with some error codes.
var codeMessages = map[string]string{
	"organization_on_hold":         "This organization is on hold.",
	"enforced_spend_limit_reached": "You have reached your specified API usage limits.",
	"contract_spend_limit_reached": "Your organization has reached the spend limit of its contract.",
	"ramp_limit_exceeded":          "Your usage is growing faster than your account's limits allow. Please ramp up gradually.",
	"claude_code_version_too_old":  "This version of Claude Code is too old. Please update.",
}

// envelope is the API's error body.
func envelope(reply *Reply, requestID string) []byte {
	known, ok := statusErrors[reply.Status]
	if !ok {
		known.kind, known.message = "api_error", http.StatusText(reply.Status)
		if reply.Status < 500 {
			known.kind = "invalid_request_error"
		}
	}
	if message, ok := codeMessages[reply.ErrorCode]; ok {
		known.message = message
	}
	if reply.ErrorType != "" {
		known.kind = reply.ErrorType
	}
	if reply.Message != "" {
		known.message = reply.Message
	}
	return []byte(errorObject(known.kind, known.message, reply.ErrorCode, requestID))
}

func errorObject(kind, message, code, requestID string) string {
	details := "null"
	if code != "" {
		details = `{"error_code":` + quote(code) + `}`
	}
	return `{"type":"error","error":{"details":` + details + `,"type":` + quote(kind) + `,"message":` + quote(message) +
		`},"request_id":` + quote(requestID) + `}`
}

// refuse puts into reply what the request earns: nothing, where it is right.
func (x *exchange) refuse(what kind, method string, reply *Reply) {
	no := func(status int, message string) {
		reply.Status, reply.Message = status, message
	}
	r := &x.request
	switch {
	case what == unknownPath:
		no(404, "Not Found")
		return
	case method != "" && r.Method != method:
		no(405, "")
		return
	case what == token:
		x.refuseToken(reply)
		return
	case r.Credential == "":
		no(401, "x-api-key header is required")
		return
	case r.Header.Get("Anthropic-Version") == "":
		no(400, "anthropic-version: header is required")
		return
	case what == models:
		if id := strings.TrimPrefix(r.Path, "/v1/models/"); id != r.Path && !x.server.knows(id) {
			no(404, "model: "+id)
		}
		return
	case len(r.Body) > maxBody:
		no(413, "")
		return
	}
	if message := x.bodyFault(what); message != "" {
		no(400, message)
	}
}

// bodyFault is what the API would object to in a body; "" if nothing.
func (x *exchange) bodyFault(what kind) string {
	body := x.request.Body
	if !gjson.ValidBytes(body) || !gjson.ParseBytes(body).IsObject() {
		return "The request body is not valid JSON: expected an object"
	}
	required := []string{"model", "max_tokens", "messages"}
	if what == countTokens {
		required = []string{"model", "messages"}
	}
	for _, key := range required {
		if !gjson.GetBytes(body, key).Exists() {
			return key + ": Field required"
		}
	}
	if !gjson.GetBytes(body, "messages.0").Exists() {
		return "messages: at least one message is required"
	}
	if n := cacheMarks(body); n > 4 {
		return fmt.Sprintf("A maximum of 4 blocks with cache_control may be provided. Found %d.", n)
	}
	// Dates compare as texts.
	if x.request.Header.Get("Anthropic-Version") >= "2026-10-21" {
		for _, key := range []string{"temperature", "top_p", "top_k"} {
			if gjson.GetBytes(body, key).Exists() {
				return key + ": Extra inputs are not permitted"
			}
		}
	}
	if x.server.config.CheckThinking {
		return x.thinkingFault()
	}
	return ""
}

// cacheMarks counts the blocks of system, tools and messages that are marked.
func cacheMarks(body []byte) int {
	if bytes.Count(body, []byte(`"cache_control"`)) <= 4 {
		return 0
	}
	n := 0
	count := func(_, b gjson.Result) bool {
		if b.Get("cache_control").IsObject() {
			n++
		}
		return true
	}
	gjson.GetBytes(body, "system").ForEach(count)
	gjson.GetBytes(body, "tools").ForEach(count)
	gjson.GetBytes(body, "messages").ForEach(func(_, m gjson.Result) bool {
		if content := m.Get("content"); content.IsArray() {
			content.ForEach(count)
		}
		return true
	})
	return n
}
