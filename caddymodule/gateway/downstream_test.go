package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// What a client that is kept alive gets, by the time that it takes.
func TestKeepAlive(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*downstream)
		want string
	}{
		{"nothing for long", func(*downstream) { time.Sleep(81 * time.Second) }, ": keepalive\n\n: keepalive\n\n: keepalive\n\n"},
		{"a stream in time", func(c *downstream) {
			c.write([]byte("data: 1\n\n"), true, c.clock.now())
			time.Sleep(49 * time.Second)
		}, "data: 1\n\n"},
		{"silence between two events", func(c *downstream) {
			c.write([]byte("data: 1\n\n"), true, c.clock.now())
			time.Sleep(51 * time.Second)
			c.write([]byte("data: 2\n\n"), true, c.clock.now())
		}, "data: 1\n\n: keepalive\n\ndata: 2\n\n"},
		{"silence within an event", func(c *downstream) {
			c.write([]byte("data: 1"), false, c.clock.now())
			time.Sleep(100 * time.Second)
			c.write([]byte("\n\n"), true, c.clock.now())
		}, "data: 1\n\n"},
		{"another answer is left alone", func(c *downstream) {
			c.whole(http.StatusOK, http.Header{}, []byte("{}"))
			time.Sleep(100 * time.Second)
		}, "{}"},
		{"a body that goes on is left alone", func(c *downstream) {
			c.begin(http.StatusOK, http.Header{})
			c.chunk([]byte("{"))
			time.Sleep(100 * time.Second)
			c.chunk([]byte("}"))
		}, "{}"},
		{"after the end", func(c *downstream) {
			c.end()
			time.Sleep(100 * time.Second)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				recorder := httptest.NewRecorder()
				c := newDownstream(recorder, "req_1", stopwatch{time.Now()})
				c.keepAlive(15*time.Second, 50*time.Second)
				test.run(c)
				c.end()
				if got := recorder.Body.String(); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}
