package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// adminFailure is a call that failed, in one line.
type adminFailure struct {
	message string
	// doubtful: it may have been carried out all the same.
	doubtful bool
}

func (f *adminFailure) Error() string { return f.message }

// adminError makes an adminFailure of an error of Request, which has it as
// text alone.
func (e Endpoint) adminError(address string, err error) error {
	_, answer, ok := strings.Cut(err.Error(), "caddy responded with error: HTTP ")
	if !ok {
		return unanswered(address, err)
	}
	status, body, _ := strings.Cut(answer, ": ")
	doubtful := strings.HasPrefix(status, "5")
	var refusal struct {
		Message string `json:"error"`
	}
	switch {
	case json.Unmarshal([]byte(body), &refusal) == nil && refusal.Message != "":
		return &adminFailure{printable(refusal.Message), doubtful}
	case !e.isCaddy(address):
		return &adminFailure{notCaddy(address, "it answers with status "+status), doubtful}
	case status == "404":
		return &adminFailure{fmt.Sprintf("the Caddy at %s has no admin API of sub2api: it was built without sub2api; run one that `caddy list-modules` shows http.handlers.sub2api of, or name the address of another with --address", address), false}
	}
	return &adminFailure{fmt.Sprintf("the Caddy at %s answers with status %s: %s", address, status, printable(strings.TrimSpace(body))), doubtful}
}

// unanswered is the failure of a call to which nothing came that can be read. Why
// there is nobody at the address, nobody can tell from outside.
func unanswered(address string, err error) error {
	text := printable(err.Error())
	switch {
	case strings.Contains(text, ": dial "):
		return &adminFailure{fmt.Sprintf("nothing listens at %s, where Caddy's admin endpoint should be: %s; either Caddy does not run: start it; or its config has the endpoint off (`admin off`) or elsewhere: turn it on, or name its address with --address, or the config with --config", address, text), false}
	case strings.Contains(text, "malformed HTTP"):
		return &adminFailure{notCaddy(address, text), true}
	}
	return &adminFailure{fmt.Sprintf("no answer of Caddy's admin endpoint at %s: %s; see whether Caddy runs there, or name its address with --address", address, text), true}
}

func notCaddy(address, why string) string {
	return fmt.Sprintf("what listens at %s is not Caddy's admin endpoint: %s; name the address of that with --address, or the config that has it with --config", address, why)
}

// ofAdminAPI is an error unless an answer may be one of the admin API: a site on the
// address answers whatever it is asked.
func ofAdminAPI(address string, answer *http.Response) error {
	kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
	if answer.StatusCode == http.StatusNoContent || answer.StatusCode == http.StatusOK && (kind == "application/json" || kind == "text/csv") {
		return nil
	}
	if kind == "" {
		kind = "no type of content"
	}
	return &adminFailure{notCaddy(address, fmt.Sprintf("it answers with status %d and %s", answer.StatusCode, printable(kind))), false}
}

// isCaddy reports whether Caddy's admin endpoint is at the address: nothing else
// answers in its way when it is asked for a part of its config. That is not read.
func (e Endpoint) isCaddy(address string) bool {
	answer, err := e.Request(address, http.MethodGet, "/config/admin", nil)
	if err != nil {
		return strings.Contains(err.Error(), `{"error":"invalid traversal path`) // it has no config
	}
	answer.Body.Close()
	return strings.HasPrefix(strings.Trim(answer.Header.Get("Etag"), `"`), "/config/")
}
