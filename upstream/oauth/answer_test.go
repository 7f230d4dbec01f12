package oauth_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

func TestRefusedRefreshTokens(t *testing.T) {
	for name, test := range map[string]struct {
		status  int
		body    string
		refused bool
	}{
		"invalid_grant":             {400, `{"error":"invalid_grant","error_description":"gone: refresh-0"}`, true},
		"invalid_grant with 401":    {401, `{"error":"invalid_grant"}`, true},
		"invalid_grant with 403":    {403, `{"error":"invalid_grant"}`, true},
		"invalid_grant with 200":    {200, `{"error":"invalid_grant"}`, true},
		"unknown client":            {401, `{"error":"invalid_client"}`, true},
		"unauthorized_client":       {400, `{"error":"unauthorized_client"}`, true},
		"an API's envelope":         {400, `{"type":"error","error":{"type":"invalid_grant","message":"gone: refresh-0"}}`, true},
		"a code in an envelope":     {400, `{"error":{"type":"oauth_error","code":"invalid_grant"}}`, true},
		"a mark and white space":    {400, "\ufeff\r\n {\"error\": \"invalid_grant\"}\n", true},
		"a secret at the cut":       {400, `{"error":"invalid_grant","error_description":"` + strings.Repeat("x", 195) + `refresh-0"}`, true},
		"a secret as forms have it": {400, `{"error":"invalid_grant","error_description":"grant=secret%2Fof+client"}`, true},

		"400 of a page":         {400, `<html>invalid_grant</html>`, false},
		"401":                   {401, `no`, false},
		"401 without a body":    {401, ``, false},
		"403 of a proxy":        {403, `<html>`, false},
		"400 of an API":         {400, `{"type":"error","error":{"type":"invalid_request_error","message":"refresh-0"}}`, false},
		"a number for an error": {400, `{"error":400}`, false},
		"invalid_request":       {400, `{"error":"invalid_request"}`, false},
		"invalid_scope":         {400, `{"error":"invalid_scope"}`, false},
		"server_error":          {400, `{"error":"server_error"}`, false},
		"temporarily":           {400, `{"error":"temporarily_unavailable"}`, false},
		"another name":          {400, `{"error":"not invalid_grant"}`, false},
		"no error":              {400, `{"message":"invalid_grant"}`, false},
		"a list":                {400, `["invalid_grant"]`, false},
		"a form":                {400, `error=invalid_grant`, false},
		"a refusal cut off":     {400, `{"error":"invalid_grant","error_desc`, false},
		"429":                   {429, `{"error":"rate_limited"}`, false},
		"429 with a refusal":    {429, `{"error":"invalid_grant"}`, false},
		"503":                   {503, ``, false},
		"503 with a refusal":    {503, `{"error":"invalid_grant"}`, false},
		"redirect":              {307, ``, false},
		"no token":              {200, `{}`, false},
		"an empty token":        {200, `{"access_token":" ","refresh_token":"refresh-9"}`, false},
		"no text for a token":   {200, `{"access_token":17}`, false},
		"a token cut off":       {200, `{"access_token":"access-9`, false},
		"a form cut off":        {200, `access_token=`, false},
		"no JSON":               {200, `<html>access_token=access-9</html>`, false},
		"token with a newline":  {200, `{"access_token":"a\nb"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint()
				e.answers = append(e.answers, func(*http.Request) (*http.Response, error) { return reply(test.status, test.body) })
				n := newNode(t, &shelf{}, newDoor(), e)
				a := account(time.Now().Add(-time.Second))
				_, err := n.Access(t.Context(), a)
				var refused *oauth.RefusedError
				if errors.As(err, &refused) != test.refused || (len(n.refused) > 0) != test.refused {
					t.Errorf("error %v, told %q; want refused %t", err, n.refused, test.refused)
				}
				if err == nil || e.count() != 1 {
					t.Errorf("error %v after %d requests", err, e.count())
				}
				for _, text := range append(n.refused, fmt.Sprint(err)) {
					if strings.Contains(text, "refresh-0") || strings.Contains(text, "xrefr") || strings.Contains(text, "secret") {
						t.Errorf("a secret shows: %s", text)
					}
				}
				if test.refused { // the requests under way are told the same
					if _, err := n.Access(t.Context(), a); !errors.As(err, &refused) || e.count() != 1 || len(n.refused) != 1 {
						t.Errorf("error %v after %d requests", err, e.count())
					}
					time.Sleep(10 * time.Second)
				}
				n.want(t, a, "access-1") // later ones try again
			})
		})
	}
}

// kept is what the Store holds after one refresh.
type kept struct {
	Access  string    `json:"access_token"`
	Refresh string    `json:"refresh_token"`
	Expires time.Time `json:"expires_at"`
}

// refreshOnce refreshes with one answer and returns what was stored, which must
// be the token in force.
func refreshOnce(t *testing.T, answer *http.Response) kept {
	t.Helper()
	e, store := newEndpoint(), &shelf{}
	e.answers = append(e.answers, func(*http.Request) (*http.Response, error) { return answer, nil })
	n := newNode(t, store, newDoor(), e)
	got, err := n.Refresh(t.Context(), account(time.Time{}), "access-0")
	if err != nil {
		t.Fatalf("the answer is lost: %v", err)
	}
	if len(store.documents) != 1 || e.count() != 1 {
		t.Fatalf("%d documents after %d requests", len(store.documents), e.count())
	}
	var stored kept
	for _, document := range store.documents {
		if err := json.Unmarshal(document, &stored); err != nil {
			t.Fatal(err)
		}
	}
	if stored.Access != got {
		t.Errorf("%q is used, %q is stored", got, stored.Access)
	}
	return stored
}

func answer(status int, body string, header ...string) *http.Response {
	r := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestALifetimeIsReadHoweverItIsWritten(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`3600`: time.Hour, `3600.0`: time.Hour, `"3600"`: time.Hour, `"3600.0"`: time.Hour, `3.6e3`: time.Hour, `"3.6e3"`: time.Hour, `" 3600 "`: time.Hour,
		`3600.5`: time.Hour, `"3600.5"`: time.Hour, `31536000`: 365 * 24 * time.Hour,
		// Not known: the token is used until it is refused.
		`null`: 0, `0`: 0, `-1`: 0, `"-3600"`: 0, `""`: 0, `"soon"`: 0, `"NaN"`: 0, `"Inf"`: 0, `true`: 0, `{}`: 0, `[3600]`: 0,
		`99999999999`: 0, `1e300`: 0, `1e999`: 0, `9223372036854775807`: 0, `"1h"`: 0,
	} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stored := refreshOnce(t, answer(200, `{"access_token":"access-9","expires_in":`+text+`,"refresh_token":"refresh-9"}`))
				expected := kept{Access: "access-9", Refresh: "refresh-9"}
				if want > 0 {
					expected.Expires = time.Now().Add(want).UTC().Truncate(time.Second)
				}
				if diff := cmp.Diff(expected, stored); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func pack(t *testing.T, text string, by func(io.Writer) (io.WriteCloser, error)) string {
	t.Helper()
	var packed bytes.Buffer
	w, err := by(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

// plain is an answer as it should be.
const plain = `{"token_type":"Bearer","access_token":"access-9","expires_in":3600,"refresh_token":"refresh-9","scope":"a b"}`

func TestNoOddityLosesATokenThatWasHandedOut(t *testing.T) {
	zipped := pack(t, plain, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	deflated := pack(t, plain, func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil })
	bare := pack(t, plain, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, -1) })
	const (
		encoding, contentType = "Content-Encoding", "Content-Type"
		form                  = "application/x-www-form-urlencoded"
	)
	hour := 3600
	for name, test := range map[string]struct {
		answer  *http.Response
		refresh string
		seconds int
	}{
		"as it should be":        {answer(200, plain, contentType, "application/json"), "refresh-9", hour},
		"no content type":        {answer(200, plain), "refresh-9", hour},
		"text/plain":             {answer(200, plain, contentType, "text/plain; charset=utf-8"), "refresh-9", hour},
		"JSON called a form":     {answer(200, plain, contentType, form), "refresh-9", hour},
		"status 201":             {answer(201, plain), "refresh-9", hour},
		"status 203":             {answer(203, plain), "refresh-9", hour},
		"status 299":             {answer(299, plain), "refresh-9", hour},
		"a mark and white space": {answer(200, "\ufeff \r\n"+plain+"\n\n"), "refresh-9", hour},
		"white space, a mark":    {answer(200, " \n\ufeff"+plain), "refresh-9", hour},

		"gzip":                        {answer(200, zipped, encoding, "gzip"), "refresh-9", hour},
		"gzip that nothing names":     {answer(200, zipped), "refresh-9", hour},
		"gzip without its end":        {answer(200, zipped[:len(zipped)-8], encoding, "gzip"), "refresh-9", hour},
		"deflate":                     {answer(200, deflated, encoding, "deflate"), "refresh-9", hour},
		"deflate in capitals":         {answer(200, deflated, encoding, " Deflate"), "refresh-9", hour},
		"deflate without its header":  {answer(200, bare, encoding, "deflate"), "refresh-9", hour},
		"deflate without its end":     {answer(200, deflated[:len(deflated)-4], encoding, "deflate"), "refresh-9", hour},
		"called gzip, and is not":     {answer(200, plain, encoding, "gzip"), "refresh-9", hour},
		"called deflate, and is not":  {answer(200, plain, encoding, "deflate"), "refresh-9", hour},
		"form":                        {answer(200, "access_token=access-9&expires_in=3600&refresh_token=refresh%2D9&token_type=bearer", contentType, form), "refresh-9", hour},
		"form as text":                {answer(200, "access_token=access-9&refresh_token=refresh-9", contentType, "text/plain"), "refresh-9", 0},
		"form with a bad escape":      {answer(200, "access_token=access-9&scope=%zz&refresh_token=refresh-9"), "refresh-9", 0},
		"no token type":               {answer(200, `{"access_token":"access-9","refresh_token":"refresh-9"}`), "refresh-9", 0},
		"further members":             {answer(200, `{"account":{"access_token":"other","x":[1,{"refresh_token":"no"}]},"access_token":"access-9","refresh_token":"refresh-9","expires_in":3600}`), "refresh-9", hour},
		"an escape in a name":         {answer(200, `{"access\u005ftoken":"access\u002d9","refresh_token":"refresh-9"}`), "refresh-9", 0},
		"spaces around the tokens":    {answer(200, `{"access_token":" access-9\n","refresh_token":"\trefresh-9 "}`), "refresh-9", 0},
		"an error beside it":          {answer(200, `{"error":"invalid_grant","access_token":"access-9","refresh_token":"refresh-9"}`), "refresh-9", 0},
		"an empty error beside it":    {answer(200, `{"error":null,"access_token":"access-9","refresh_token":"refresh-9"}`), "refresh-9", 0},
		"a status that contradicts":   {answer(500, plain), "refresh-9", hour},
		"no refresh token":            {answer(200, `{"access_token":"access-9","expires_in":3600}`), "refresh-0", hour},
		"refresh token null":          {answer(200, `{"access_token":"access-9","refresh_token":null}`), "refresh-0", 0},
		"refresh token empty":         {answer(200, `{"access_token":"access-9","refresh_token":" "}`), "refresh-0", 0},
		"refresh token a number":      {answer(200, `{"access_token":"access-9","refresh_token":7}`), "refresh-0", 0},
		"cut in the refresh token":    {answer(200, `{"access_token":"access-9","refresh_token":"refre`), "refresh-0", 0},
		"cut in an escape":            {answer(200, `{"access_token":"access-9","refresh_token":"refre\u00`), "refresh-0", 0},
		"cut at an escaped quote":     {answer(200, `{"access_token":"access-9","refresh_token":"refre\"`), "refresh-0", 0},
		"cut in the lifetime":         {answer(200, `{"access_token":"access-9","refresh_token":"refresh-9","expires_in":36`), "refresh-9", 0},
		"cut after the lifetime":      {answer(200, `{"access_token":"access-9","refresh_token":"refresh-9","expires_in":3600,`), "refresh-9", hour},
		"cut before the last bracket": {answer(200, strings.TrimSuffix(plain, "}")), "refresh-9", hour},
		"trailed by a page":           {answer(200, plain+"<!-- 0.3 s -->"), "refresh-9", hour},
		"longer than is read":         {answer(200, strings.TrimSuffix(plain, "}")+`,"more":"`+strings.Repeat("x", 2<<20)+`"}`), "refresh-9", hour},
		"longer than is unpacked": {answer(200, pack(t, strings.TrimSuffix(plain, "}")+`,"more":"`+strings.Repeat("x", 2<<20)+`"}`,
			func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })), "refresh-9", hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stored := refreshOnce(t, test.answer)
				expected := kept{Access: "access-9", Refresh: test.refresh}
				if test.seconds > 0 {
					expected.Expires = time.Now().Add(time.Duration(test.seconds) * time.Second).UTC()
				}
				if diff := cmp.Diff(expected, stored); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// broken is a body that breaks off.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (broken) Close() error { return nil }

func TestWhatCameBeforeAConnectionBroke(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want kept // zero = nothing, and no refusal
	}{
		"all there":             {body: `{"access_token":"access-9","refresh_token":"refresh-9"}`, want: kept{Access: "access-9", Refresh: "refresh-9"}},
		"the access token":      {body: `{"access_token":"access-9","refre`, want: kept{Access: "access-9", Refresh: "refresh-0"}},
		"half an access token":  {body: `{"access_token":"acce`},
		"a form's access token": {body: `access_token=access-9&refresh_token=refr`, want: kept{Access: "access-9", Refresh: "refresh-0"}},
		"half a form's":         {body: `access_token=acce`},
		"nothing":               {},
		"a refusal":             {body: `{"error":"invalid_grant"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				response := answer(200, "")
				response.Body = broken{strings.NewReader(test.body)}
				if test.want != (kept{}) {
					if diff := cmp.Diff(test.want, refreshOnce(t, response)); diff != "" {
						t.Error(diff)
					}
					return
				}
				e := newEndpoint()
				e.answers = append(e.answers, func(*http.Request) (*http.Response, error) { return response, nil })
				n := newNode(t, &shelf{}, newDoor(), e)
				got, err := n.Refresh(t.Context(), account(time.Time{}), "access-0")
				var refused *oauth.RefusedError
				if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &refused) {
					t.Errorf("got %q, error %v", got, err)
				}
			})
		})
	}
}

// Over a real connection: what the transport does by itself doesn't hurt, and a
// redirect doesn't carry the refresh token elsewhere.
func TestTheEndpointIsAskedByOneForm(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("Authorization"))
		switch len(asked) {
		case 1:
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case 2:
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			defer packed.Close()
			io.WriteString(packed, plain)
		default:
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"access_token":"access-10","ref`)
		}
	}))
	defer server.Close()
	n := newNode(t, &shelf{}, newDoor(), server.Client().Transport)
	a := account(time.Time{})
	a.Refresh.TokenURL = server.URL + "/token"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var refused *oauth.RefusedError
	if got, err := n.Refresh(ctx, a, "access-0"); err == nil || errors.As(err, &refused) {
		t.Errorf("redirected: %q, %v", got, err)
	}
	used := "access-0"
	for _, want := range []string{"access-9", "access-10"} {
		if got, err := n.Refresh(ctx, a, used); got != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		used = want
	}
	one := "POST /token application/x-www-form-urlencoded "
	if diff := cmp.Diff([]string{one, one, one}, asked); diff != "" {
		t.Error(diff)
	}
}
