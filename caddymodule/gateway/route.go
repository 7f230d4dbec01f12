package gateway

import (
	"net/http"
	"strings"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// endpoint is a method and a path that the gateway serves.
type endpoint struct {
	method string
	// path is as in the README; `{id}` stands for one segment.
	path  string
	serve func(*exchange) error
}

// endpoints are all that is served, and served below forcePrefix as well.
var endpoints = []endpoint{
	{http.MethodPost, "/v1/messages", (*exchange).messages},
	{http.MethodPost, "/v1/messages/count_tokens", (*exchange).countTokens},
	{http.MethodGet, modelsPath, (*exchange).listModels},
	{http.MethodGet, modelsPath + "/{id}", (*exchange).oneModel},
	{http.MethodGet, "/v1/usage", (*exchange).usage},
}

// forcePrefix is the path below which the platform is antigravity.
const forcePrefix = "/antigravity"

// apiPrefixes are what the paths of the providers' APIs begin with. A client
// that asks for one of them which is not served must hear of it: SDKs take
// another handler's empty answer for success.
var apiPrefixes = []string{"/v1/", "/v1beta/", "/v1alpha/", "/upload/", "/ws/google.ai.", forcePrefix + "/"}

// isAPIPath reports whether a cleaned path is that of a provider's API, served
// or not.
func isAPIPath(path string) bool { return beginsWithAny(path, apiPrefixes...) }

// cleanPath makes one slash of several, and none of those at the end, as base
// URLs that end with a slash bring them. It leaves `.` and `..` alone: a path
// that holds them is nobody's endpoint.
func cleanPath(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}

// splitForce takes forcePrefix off a cleaned path, and returns the platform that
// it forces; "" = none.
func splitForce(path string) (rest string, force upstream.Platform) {
	if rest, ok := strings.CutPrefix(path, forcePrefix); ok && strings.HasPrefix(rest, "/") {
		return rest, upstream.Antigravity
	}
	return path, ""
}

// findEndpoint returns the endpoint of a cleaned path without forcePrefix, nil
// if there is none. The method matters where a path is an endpoint of one API,
// and something else in another: a POST to a model's name and a colon calls a
// method of Gemini's.
func findEndpoint(method, path string) *endpoint {
	if isModelPath(path) && (method != http.MethodPost || !strings.Contains(path, ":")) {
		path = modelsPath + "/{id}"
	}
	for i := range endpoints {
		if endpoints[i].path == path {
			return &endpoints[i]
		}
	}
	return nil
}

func beginsWithAny(path string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
