// An application as its authors write it: Express, express-session and connect-redis on node-redis.
//   node app.mjs REDIS_SOCKET MODULES
// MODULES is the node_modules that scripts/fetch-node made. Listens on a free port of 127.0.0.1 and
// prints it; ends when its standard input does. /kept/… keeps its sessions in the store of the
// documentation, which brings no ended session back; all else in connect-redis' own.
import { createHmac } from 'node:crypto'
import { createRequire } from 'node:module'

const [socket, modules] = process.argv.slice(2)
const require = createRequire(modules + '/')
const express = require('express')
const session = require('express-session')
const { RedisStore } = require('connect-redis')
const { createClient } = require('redis')

const SECRET = 'a secret of the application'
const client = createClient({ socket: { path: socket } })
await client.connect()

// As in docs/functions/redis_session_end.md.
class KeptStore extends RedisStore {
  known = new WeakSet()

  // Called for a session that was read; one that is new was not.
  createSession(req, data) {
    const session = super.createSession(req, data)
    this.known.add(session)
    return session
  }

  async set(id, session, done) {
    if (!this.known.has(session)) {
      this.known.add(session)
      return super.set(id, session, done)
    }
    try {
      const value = this.serializer.stringify(session)
      const expiration = { type: 'EX', value: this.getTTL(session) }
      await this.client.set(this.prefix + id, value, { condition: 'XX', expiration })
      done?.(null)
    } catch (error) {
      done?.(error)
    }
  }
}

// What holds a request up until the test lets it go on.
let letGo = () => {}

function pages(store, cookie) {
  const pages = express.Router()
  pages.use(session({ store, secret: SECRET, resave: false, saveUninitialized: false, cookie }))
  pages.post('/login', (req, res) => {
    req.session.user = req.query.user
    req.session.views = 0
    req.session.price = 1e21
    res.json({ id: req.sessionID })
  })
  pages.get('/me', (req, res) => {
    const { cookie, ...data } = req.session
    res.json({ id: req.sessionID, data, maxAge: cookie.originalMaxAge })
  })
  pages.post('/view', (req, res) => {
    req.session.views += 1
    res.json(req.session.views)
  })
  pages.post('/slow', async (req, res) => {
    const held = new Promise((resolve) => { letGo = resolve })
    res.write('held\n')
    await held
    req.session.views = 100
    res.end()
  })
  pages.post('/logout', (req, res, next) => {
    req.session.destroy((error) => (error ? next(error) : res.json(true)))
  })
  return pages
}

const app = express()
app.post('/go', (req, res) => { letGo(); res.json(true) })
// What a gateway does with an id that SQL made: it signs it for the browser.
app.get('/signed/:id', (req, res) => {
  const signature = createHmac('sha256', SECRET).update(req.params.id).digest('base64').replace(/=+$/, '')
  res.json('connect.sid=' + encodeURIComponent(`s:${req.params.id}.${signature}`))
})
app.use('/kept', pages(new KeptStore({ client }), { maxAge: 600_000 }))
app.use('/short', pages(new RedisStore({ client }), { maxAge: 600_000 }))
app.use(pages(new RedisStore({ client })))

const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => process.exit(0)).resume()
