package simulator

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// writeHeaders sets what the API sends with every answer, then what the Reply
// changes about it.
func (x *exchange) writeHeaders(h http.Header, reply *Reply, contentType string) {
	h["Content-Type"] = []string{contentType}
	h["Request-Id"] = []string{x.request.ID}
	if x.request.Path != TokenPath {
		h["Anthropic-Organization-Id"] = []string{x.organization()}
		x.rateHeaders(h, reply)
	}
	if reply.RetryAfter > 0 {
		seconds := (reply.RetryAfter + time.Second - 1) / time.Second
		h["Retry-After"] = []string{strconv.FormatInt(int64(seconds), 10)}
	}
	if strings.HasPrefix(contentType, "text/event-stream") {
		h["Cache-Control"] = []string{"no-cache"}
	}
	if reply.Gzip {
		h["Content-Encoding"] = []string{"gzip"}
	}
	for name, values := range reply.Header {
		name = http.CanonicalHeaderKey(name)
		if len(values) == 0 {
			delete(h, name)
			continue
		}
		h[name] = values
	}
}

// organization is a UUID that belongs to the credential.
func (x *exchange) organization() string {
	sum := sha256.Sum256([]byte("organization " + x.request.Credential))
	return fmt.Sprintf("%x-%x-4%x-8%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])[:36]
}

// rateHeaders sets an API key's limits, or those of a subscription for its
// tokens and where the Reply says so. A plain 429 has none of either.
func (x *exchange) rateHeaders(h http.Header, reply *Reply) {
	now := x.request.Time
	limits := reply.Limits
	if limits == nil && reply.Status != http.StatusTooManyRequests && strings.HasPrefix(x.request.Credential, "sk-ant-oat") {
		hour := now.Truncate(time.Hour)
		limits = &Limits{Claim: "five_hour", Windows: []Window{
			{Name: "5h", Status: "allowed", Reset: hour.Add(5 * time.Hour), Utilization: 0.1},
			{Name: "7d", Status: "allowed", Reset: hour.Add(7 * 24 * time.Hour), Utilization: 0.05},
		}}
	}
	switch {
	case limits != nil:
		limits.set(h)
	case reply.Status < 400:
		reset := []string{now.UTC().Add(time.Second).Format(time.RFC3339)}
		for _, kind := range ordinaryLimits {
			h[kind.header+"Limit"] = kind.limit
			h[kind.header+"Remaining"] = kind.remaining
			h[kind.header+"Reset"] = reset
		}
	}
}

var ordinaryLimits = []struct {
	header           string
	limit, remaining []string
}{
	{"Anthropic-Ratelimit-Requests-", []string{"4000"}, []string{"3999"}},
	{"Anthropic-Ratelimit-Tokens-", []string{"2400000"}, []string{"2399000"}},
	{"Anthropic-Ratelimit-Input-Tokens-", []string{"2000000"}, []string{"1999000"}},
	{"Anthropic-Ratelimit-Output-Tokens-", []string{"400000"}, []string{"400000"}},
}

func (l *Limits) set(h http.Header) {
	const unified = "Anthropic-Ratelimit-Unified-"
	stamp := func(t time.Time) string {
		if l.RFC3339 {
			return t.UTC().Format(time.RFC3339)
		}
		return strconv.FormatInt(t.Unix(), 10)
	}
	set := func(name, value string) {
		if value != "" {
			h.Set(unified+name, value)
		}
	}
	status, reset := l.overall()
	set("Status", status)
	if !reset.IsZero() {
		set("Reset", stamp(reset))
	}
	set("Representative-Claim", l.Claim)
	for _, w := range l.Windows {
		set(w.Name+"-Status", w.Status)
		if !w.Reset.IsZero() {
			set(w.Name+"-Reset", stamp(w.Reset))
		}
		set(w.Name+"-Utilization", strconv.FormatFloat(w.Utilization, 'f', -1, 64))
	}
	set("Overage-Status", l.Overage)
	set("Overage-Disabled-Reason", l.OverageReason)
	if !l.FastReset.IsZero() {
		for _, kind := range []string{"Input", "Output"} {
			h.Set("Anthropic-Fast-"+kind+"-Tokens-Limit", "100000")
			h.Set("Anthropic-Fast-"+kind+"-Tokens-Remaining", "0")
			h.Set("Anthropic-Fast-"+kind+"-Tokens-Reset", l.FastReset.UTC().Format(time.RFC3339))
		}
	}
}

// overall fills the defaults of Status and Reset.
func (l *Limits) overall() (status string, reset time.Time) {
	status, reset = l.Status, l.Reset
	rejected := slices.DeleteFunc(slices.Clone(l.Windows), func(w Window) bool { return w.Status != "rejected" })
	if status == "" && len(l.Windows) > 0 {
		status = "allowed"
		if len(rejected) > 0 {
			status = "rejected"
		}
	}
	if !reset.IsZero() || len(l.Windows) == 0 {
		return status, reset
	}
	byReset := func(a, b Window) int { return a.Reset.Compare(b.Reset) }
	if len(rejected) > 0 {
		return status, slices.MaxFunc(rejected, byReset).Reset
	}
	return status, slices.MinFunc(l.Windows, byReset).Reset
}

func looksLikeHTML(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(body), []byte("<"))
}
