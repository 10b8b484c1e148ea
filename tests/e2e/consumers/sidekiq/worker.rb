# What an application's Sidekiq server loads: one worker, which writes what it ran into Redis.
#   REDIS_SOCKET=… sidekiq -r ./worker.rb -q mail
require 'sidekiq'

redis = { path: ENV.fetch('REDIS_SOCKET') }
Sidekiq.configure_server do |config|
  config.redis = redis
  # How often it looks for what is due, in seconds.
  config.options[:poll_interval_average] = 0.2
  config.on(:startup) do
    # As Sidekiq's own client writes them, for a comparison; nobody works on this queue.
    Mailer.set(queue: 'idle').perform_async(1)
    Mailer.set(queue: 'idle').perform_in(3600, 2)
    Sidekiq.redis { |r| r.set('sidekiq:started', 1) }
  end
end

class Mailer
  include Sidekiq::Worker
  def perform(*args)
    said = { args: args, jid: jid, at: Time.now.to_f }
    Sidekiq.redis { |r| r.rpush('ran', JSON.generate(said)) }
  end
end
