package gateway

import (
	"net/http"
	"strings"

	"github.com/tidwall/sjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// answerUnserved answers a request to a path of a provider's API that is not
// served, in the error envelope of that API. path is the cleaned one. No key is
// asked for: what is served is no secret.
func answerUnserved(w http.ResponseWriter, r *http.Request, path string) {
	path, force := splitForce(path)
	// The escaped path is printable ASCII, whatever the client sent.
	message := shorten(r.URL.EscapedPath()) + " is not served here"
	if rest, ok := strings.CutPrefix(path, "/v1"); ok && beginsWithAny(rest+"/", "/v1/", "/v1beta/", "/v1alpha/") {
		path = rest
		message += ": the base URL that the client was given has a /v1 too many"
	}
	e := errNotFound(message + ". Served are " + served() + "; the same also below " + forcePrefix)
	id := newRequestID()
	body := e.body(id)
	switch dialectOf(path, force, r.Header) {
	case upstream.Gemini:
		body = withMessage(`{"error":{"code":404,"message":"","status":"NOT_FOUND"}}`, e.message)
	case upstream.OpenAI:
		body = withMessage(`{"error":{"message":"","type":"invalid_request_error","param":null,"code":"unknown_url"}}`, e.message)
	}
	e.writeBody(w, id, body)
}

// dialectOf returns whose API a client speaks that asks for a path which is not
// served, as far as path and headers say it. path is without forcePrefix, and
// force is what that forces.
func dialectOf(path string, force upstream.Platform, header http.Header) upstream.Platform {
	switch {
	case beginsWithAny(path+"/", "/v1beta/", "/v1alpha/", "/upload/", "/ws/"),
		strings.HasPrefix(path, modelsPath+"/") && strings.Contains(path, ":"),
		header.Get("X-Goog-Api-Key") != "":
		return upstream.Gemini
	case force != "",
		strings.HasPrefix(path, "/v1/messages"),
		path == "/v1/complete",
		header.Get("Anthropic-Version") != "":
		return upstream.Anthropic
	}
	return upstream.OpenAI
}

// served lists the endpoints for people.
func served() string {
	names := make([]string, 0, len(endpoints))
	for _, e := range endpoints {
		names = append(names, e.method+" "+e.path)
	}
	return strings.Join(names, ", ")
}

// withMessage puts a message into the error of an envelope that has an empty one.
func withMessage(envelope, message string) []byte {
	// The path exists in the envelope, so that nothing can fail.
	body, _ := sjson.SetBytes([]byte(envelope), "error.message", message)
	return body
}
