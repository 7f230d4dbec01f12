package simulator

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// sender is an answer on its way out.
type sender struct {
	x       *exchange
	ctx     context.Context
	w       http.ResponseWriter
	out     io.Writer // w, or a compressor before it
	zip     *gzip.Writer
	control *http.ResponseController
	reply   *Reply
	answer  *answer
}

// send sends the answer with its delays and its fault. Every way out of it
// leaves the request's record complete.
func (x *exchange) send(w http.ResponseWriter, r *http.Request, reply *Reply, a answer) {
	s := &sender{x: x, ctx: r.Context(), w: w, out: w, control: http.NewResponseController(w), reply: reply, answer: &a}
	if !x.wait(s.ctx, reply.HeaderDelay) {
		s.giveUp()
	}
	if reply.Fault.Kind != NoFault && reply.Fault.After < 0 && s.beforeHeader() {
		return
	}
	x.writeHeaders(w.Header(), reply, a.contentType)
	if n, ok := s.length(); ok {
		w.Header()["Content-Length"] = []string{strconv.Itoa(n)}
	}
	x.setStatus(a.status)
	if reply.Gzip {
		s.zip = gzip.NewWriter(w)
		s.out = s.zip
	}
	last := len(a.pieces) - 1
	fault := reply.Fault
	faulty := fault.Kind != NoFault
	at := min(max(0, fault.After), len(a.pieces))
	if !faulty && last <= 0 && reply.FirstDelay == 0 {
		x.leave() // the header goes out with the only piece
	}
	w.WriteHeader(a.status)
	if a.stream || reply.FirstDelay > 0 || faulty {
		s.flush()
	}
	if !x.wait(s.ctx, reply.FirstDelay) {
		s.giveUp()
	}
	for i := range a.pieces {
		if faulty && i == at && !s.strike(a.pieces[i:]) {
			return
		}
		pause := a.pieces[i].pause
		if i > 0 {
			pause += reply.Pause
		}
		if !x.wait(s.ctx, pause) {
			s.giveUp()
		}
		s.write(a.pieces[i].data, a.pieces[i].tokens, i == last && !(faulty && at > last))
	}
	if faulty && at > last && !s.strike(nil) {
		return
	}
	s.finish()
}

// length is the body's, where it is known and no fault changes it.
func (s *sender) length() (int, bool) {
	switch s.reply.Fault.Kind {
	case NoFault, Reset, Cut, Hang:
	default:
		return 0, false
	}
	if s.answer.stream || s.reply.Gzip {
		return 0, false
	}
	n := 0
	for _, p := range s.answer.pieces {
		n += len(p.data)
	}
	return n, true
}

// write sends one piece and gives up where the client has gone.
func (s *sender) write(data []byte, tokens int64, last bool) {
	x := s.x
	// Counted first, so that the record is complete before the client can have
	// the answer's end.
	x.pieces.Add(1)
	x.bytes.Add(int64(len(data)))
	x.tokens.Add(tokens)
	if last {
		x.leave()
	}
	n, err := s.out.Write(data)
	if err == nil && (!last || s.answer.stream || s.zip != nil) {
		err = s.flush()
	}
	if err != nil {
		x.pieces.Add(-1)
		x.bytes.Add(int64(n - len(data)))
		x.tokens.Add(-tokens)
		s.giveUp()
	}
}

func (s *sender) flush() error {
	if s.zip != nil {
		if err := s.zip.Flush(); err != nil {
			return err
		}
	}
	return s.control.Flush()
}

func (s *sender) finish() {
	if s.zip != nil {
		s.zip.Close() // fails only where the client has gone
	}
}

// giveUp ends an answer that nobody waits for any more: the client left, or
// the server closes.
func (s *sender) giveUp() {
	s.x.gone()
	s.abort()
}

// abort closes the connection, or resets the stream of HTTP/2.
func (s *sender) abort() {
	s.x.leave()
	panic(http.ErrAbortHandler)
}

// beforeHeader plays the faults that can come before a header, and reports
// whether there was one.
func (s *sender) beforeHeader() bool {
	switch s.reply.Fault.Kind {
	case Reset:
		s.reset()
	case Cut:
		s.abort()
	case Hang:
		s.hang()
	default:
		return false
	}
	return true
}

// strike plays the fault; rest are the pieces to come. It reports whether the
// answer goes on.
func (s *sender) strike(rest []piece) bool {
	fault := &s.reply.Fault
	if n := fault.Bytes; n > 0 && len(rest) > 0 {
		part := rest[0].data[:min(n, len(rest[0].data))]
		s.write(part, 0, false)
		s.x.pieces.Add(-1) // not a whole one
	}
	switch fault.Kind {
	case Reset:
		s.reset()
	case Cut:
		s.abort()
	case Hang:
		s.hang()
	case ErrorEvent:
		s.errorEvent()
	case Pings:
		pause := s.reply.Pause
		if pause == 0 {
			pause = time.Second
		}
		s.repeat("ping", pingData, 0, pause)
	case Endless:
		s.repeat("content_block_delta", s.delta("and so on "), 3, s.reply.Pause)
	case HugeLine:
		s.hugeLine()
		return true
	}
	s.finish() // Truncate, ErrorEvent: a clean end
	return false
}

func (s *sender) hang() {
	s.x.wait(s.ctx, -1)
	s.giveUp()
}

// reset sends a TCP reset where there is a TCP connection of its own to reset.
func (s *sender) reset() {
	s.x.leave()
	conn, _, err := s.control.Hijack()
	if err != nil { // HTTP/2
		s.abort()
	}
	raw := conn
	if secure, ok := conn.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		// Without lingering, Close resets; if that can't be had, it just closes.
		_ = tcp.SetLinger(0)
	}
	raw.Close()
	panic(http.ErrAbortHandler)
}

func (s *sender) errorEvent() {
	kind, message := s.reply.Fault.ErrorType, s.reply.Fault.Message
	if kind == "" {
		kind = "overloaded_error"
	}
	if message == "" {
		message = "Overloaded"
	}
	data := s.reply.Framing.append(nil, 0, "error", errorObject(kind, message, "", s.x.request.ID))
	s.write(data, 0, true)
}

// repeat sends the same event until nobody listens.
func (s *sender) repeat(name, data string, tokens int64, pause time.Duration) {
	framed := s.reply.Framing.append(nil, 0, name, data)
	for {
		if !s.x.wait(s.ctx, pause) || s.over() {
			s.giveUp()
		}
		s.write(framed, tokens, false)
	}
}

// over asks without waiting, for answers that never pause.
func (s *sender) over() bool {
	return s.ctx.Err() != nil || s.x.server.isClosed()
}

func (s *sender) delta(text string) string {
	return `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":` + quote(text) + `}}`
}

// hugeLine sends one text delta, made as it goes.
func (s *sender) hugeLine() {
	size := s.reply.Fault.Size
	if size == 0 {
		size = 1 << 20
	}
	// Framed around a mark, so that the line is as the Framing wants it.
	const mark = "@"
	framed := s.reply.Framing.append(nil, 0, "content_block_delta", s.delta(mark))
	place := len(framed)
	for place > 0 && framed[place-1] != mark[0] {
		place--
	}
	s.write(framed[:place-1], 0, false)
	var filler [32 << 10]byte
	for i := range filler {
		filler[i] = "huge "[i%5]
	}
	for left := size; left > 0; left -= int64(len(filler)) {
		if s.over() {
			s.giveUp()
		}
		n := min(left, int64(len(filler)))
		s.write(filler[:n], n/4, false)
		s.x.pieces.Add(-1)
	}
	s.write(framed[place:], 0, false)
	s.x.pieces.Add(-1)
}
