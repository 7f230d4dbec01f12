package anthropic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// bigCall is a call whose body has about that many bytes, and a pointer to them
// that does not hold them.
func bigCall(t *testing.T, size int) (*Call, weak.Pointer[byte]) {
	t.Helper()
	body := []byte(`{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("0123456789", size/10) + `"}]}`)
	request, err := ParseRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	return &Call{Path: "/v1/messages", Header: http.Header{}, Request: request}, weak.Make(&body[0])
}

// serveBoth runs a test against an HTTP/1.1 and an HTTP/2 server.
func serveBoth(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, to *upstream.Account, pool http.RoundTripper)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP/%d", version), func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler)
			server.EnableHTTP2 = version == 2
			server.StartTLS()
			defer server.Close()
			test(t, account(upstream.APIKey, server.URL), server.Client().Transport)
		})
	}
}

// A request's bytes are free while its answer still runs.
func TestDropFreesTheBody(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	serveBoth(t, handler, func(t *testing.T, to *upstream.Account, pool http.RoundTripper) {
		for _, rename := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			call, bytes := bigCall(t, 1<<20)
			if rename {
				to.Models = upstream.ModelMap{{Match: "m", Upstream: "other"}}
			}
			response, err := pool.RoundTrip(Prepare(ctx, call, to, "s", Options{}))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			sent := weak.Make(&call.sent.bytes[0])
			runtime.GC()
			if bytes.Value() == nil || sent.Value() == nil {
				t.Fatal("the body is gone before it is dropped")
			}
			call.Drop()
			for bytes.Value() != nil || sent.Value() != nil {
				if ctx.Err() != nil {
					t.Fatalf("rename %t: the body is still held: the client's %t, that sent %t", rename, bytes.Value() != nil, sent.Value() != nil)
				}
				runtime.GC()
			}
			runtime.KeepAlive(call)
			cancel()
		}
	})
}

// Upstream may answer before it has read the request: what is dropped is sent
// whole.
func TestDropCutsNoRequest(t *testing.T) {
	const size = 16 << 20 // more than the sockets hold
	dropped, got := make(chan bool, 1), make(chan int64, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.ProtoMajor == 1 {
			if err := control.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
		}
		control.Flush()
		<-dropped
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- n
	}
	serveBoth(t, handler, func(t *testing.T, to *upstream.Account, pool http.RoundTripper) {
		call, _ := bigCall(t, size)
		request := Prepare(t.Context(), call, to, "s", Options{})
		response, err := pool.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		call.Drop()
		dropped <- true
		if n := <-got; n != request.ContentLength {
			t.Errorf("upstream got %d of %d bytes", n, request.ContentLength)
		}
		io.Copy(io.Discard, response.Body)
	})
}

// Where net/http sends a request again, no reader is emptied: it does not tell
// which one it has read.
func TestBodySentAnew(t *testing.T) {
	whole := []byte("the whole body")
	read := func(r io.Reader) string {
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	b := newBody(whole)
	again, err := b.getBody()
	if err != nil {
		t.Fatal(err)
	}
	b.wrote(httptrace.WroteRequestInfo{})
	b.drop()
	if first, second := read(b.reader), read(again); first != string(whole) || second != string(whole) {
		t.Errorf("sent %q, then %q", first, second)
	}
	if _, err := b.getBody(); !errors.Is(err, errDropped) {
		t.Errorf("a dropped body can be had again: %v", err)
	}

	b = newBody(whole)
	b.wrote(httptrace.WroteRequestInfo{Err: io.ErrClosedPipe})
	b.drop()
	if got := read(b.reader); got != string(whole) {
		t.Errorf("%q is left of a body that was not sent", got)
	}

	b = newBody(whole)
	b.drop()
	if !bytes.Equal(whole, []byte(read(b.reader))) {
		t.Error("a body is emptied before it is sent")
	}
	b.reader.Seek(0, io.SeekStart)
	b.wrote(httptrace.WroteRequestInfo{})
	if got := read(b.reader); got != "" {
		t.Errorf("%q is left of a body that was sent and dropped", got)
	}
}
