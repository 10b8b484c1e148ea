-- Every flight that left New York City in 2013, with what is needed to explain its delay.
CREATE TABLE airlines (
    carrier text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE airports (
    faa text PRIMARY KEY,
    name text NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    alt integer NOT NULL,
    tz smallint NOT NULL,
    dst text NOT NULL,
    tzone text
);

CREATE TABLE planes (
    tailnum text PRIMARY KEY,
    year smallint,
    type text NOT NULL,
    manufacturer text NOT NULL,
    model text NOT NULL,
    engines smallint NOT NULL,
    seats smallint NOT NULL,
    speed smallint,
    engine text NOT NULL
);

CREATE TABLE weather (
    origin text NOT NULL REFERENCES airports,
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    hour smallint NOT NULL,
    temp numeric,
    dewp numeric,
    humid numeric,
    wind_dir smallint,
    wind_speed numeric,
    wind_gust numeric,
    precip numeric,
    pressure numeric,
    visib numeric,
    time_hour timestamptz NOT NULL,
    PRIMARY KEY (origin, time_hour)
);

-- dest and tailnum reference nothing: some airports and many planes are not in the data set.
CREATE TABLE flights (
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    dep_time smallint,
    sched_dep_time smallint NOT NULL,
    dep_delay smallint,
    arr_time smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay smallint,
    carrier text NOT NULL REFERENCES airlines,
    flight smallint NOT NULL,
    tailnum text,
    origin text NOT NULL REFERENCES airports,
    dest text NOT NULL,
    air_time smallint,
    distance smallint NOT NULL,
    hour smallint NOT NULL,
    minute smallint NOT NULL,
    time_hour timestamptz NOT NULL,
    PRIMARY KEY (time_hour, carrier, flight)
);
